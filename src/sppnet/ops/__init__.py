"""The one operator: pyramid pooling of windows of feature maps."""

from sppnet.ops.dispatch import Choice as Choice
from sppnet.ops.dispatch import choose as choose
from sppnet.ops.dispatch import using as using
from sppnet.ops.pooling import pool_maps as pool_maps
from sppnet.ops.pooling import pyramid_pool as pyramid_pool
