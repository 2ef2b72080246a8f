"""Tiny networks with the heads of published detectors, as their projects export them; weights at random.

NanoDet-Plus, NanoDet: `_forward_onnx` of RangiLyu/nanodet's heads. PicoDet: PaddleDetection's PicoHead
without post-processing. YOLOv8: ultralytics' Detect with `export`. YOLOv5: its Detect with anchors.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 6
SIZE_PX = 128


def conv(inputs, outputs, stride=1, kernel=3, activation=nn.SiLU):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), activation())


class Pyramid(nn.Module):
    """Maps of 16 channels at strides 8, 16, 32 and, of four, 64."""

    def __init__(self, levels=3, activation=nn.SiLU):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 8, 2), conv(8, 16, 2, activation=activation))
        self.down = nn.ModuleList(conv(16, 16, 2, activation=activation) for _ in range(levels - 1))

    def forward(self, images):
        maps = [self.stem(images)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        return maps


class NanoDetPlus(nn.Module):
    """One convolution a stride for classes and distributions, strides 8 to 64."""

    strides, bins, centre = (8, 16, 32, 64), 8, 0.0

    def __init__(self):
        super().__init__()
        self.pyramid = Pyramid(4, nn.LeakyReLU)
        self.convs = nn.ModuleList(conv(16, 16, activation=nn.LeakyReLU) for _ in range(4))
        self.gfl = nn.ModuleList(nn.Conv2d(16, CLASSES + 4 * self.bins, 1) for _ in range(4))

    def raw(self, images):
        both = [
            gfl(layer(one))
            for one, layer, gfl in zip(self.pyramid(images), self.convs, self.gfl, strict=True)
        ]
        return [one[:, :CLASSES] for one in both], [one[:, CLASSES:] for one in both]

    def forward(self, images):
        parts = [torch.cat([s.sigmoid(), b], 1).flatten(2) for s, b in zip(*self.raw(images), strict=True)]
        return torch.cat(parts, 2).permute(0, 2, 1)


class NanoDet(nn.Module):
    """Convolutions shared by three strides, distributions scaled for each."""

    strides, bins, centre = (8, 16, 32), 8, 0.5

    def __init__(self):
        super().__init__()
        self.pyramid, self.convs = Pyramid(3, nn.LeakyReLU), conv(16, 16, activation=nn.LeakyReLU)
        self.boxes = conv(16, 16, activation=nn.LeakyReLU)
        self.gfl_cls, self.gfl_reg = nn.Conv2d(16, CLASSES, 3, 1, 1), nn.Conv2d(16, 4 * self.bins, 3, 1, 1)
        self.scales = nn.Parameter(torch.tensor([0.8, 1.1, 1.7]))

    def raw(self, images):
        maps = self.pyramid(images)
        boxes = [self.gfl_reg(self.boxes(one)) * self.scales[index] for index, one in enumerate(maps)]
        return [self.gfl_cls(self.convs(one)) for one in maps], boxes

    forward = NanoDetPlus.forward


class PicoDet(NanoDetPlus):
    """As NanoDet-Plus, but an output for each stride's classes and distributions, cells by their middle."""

    centre = 0.5

    def forward(self, images):
        scores, boxes = self.raw(images)
        of_class = [one.sigmoid().flatten(2).permute(0, 2, 1) for one in scores]
        return (*of_class, *(one.flatten(2).permute(0, 2, 1) for one in boxes))


class Yolov8(nn.Module):
    """Two branches, distributions averaged by a convolution, boxes decoded in the file."""

    strides, bins, centre = (8, 16, 32), 16, 0.5

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.pyramid, self.classes = Pyramid(3), classes
        self.cv2 = nn.ModuleList(
            nn.Sequential(conv(16, 12), conv(12, 12), nn.Conv2d(12, 4 * self.bins, 1)) for _ in range(3)
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(conv(16, 10), conv(10, 10), nn.Conv2d(10, classes, 1)) for _ in range(3)
        )
        self.dfl = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.dfl.weight.data = torch.arange(self.bins, dtype=torch.float32).view(1, -1, 1, 1)

    def raw(self, images):
        maps = self.pyramid(images)
        boxes = [layer(one) for layer, one in zip(self.cv2, maps, strict=True)]
        return [layer(one) for layer, one in zip(self.cv3, maps, strict=True)], boxes

    def forward(self, images):
        scores, boxes = self.raw(images)
        points, strides = [], []
        for one, stride in zip(boxes, self.strides, strict=True):
            y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in one.shape[2:]), indexing="ij")
            points.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, x.numel()), float(stride)))
        joined = torch.cat([torch.cat([b, s], 1).flatten(2) for b, s in zip(boxes, scores, strict=True)], 2)
        box, of_class = joined.split((4 * self.bins, self.classes), 1)
        box = box.view(1, 4, self.bins, -1).transpose(2, 1).softmax(1)
        low, high = self.dfl(box).view(1, 4, -1).chunk(2, 1)
        low, high = torch.cat(points, 1) - low, torch.cat(points, 1) + high
        boxes = torch.cat([(low + high) / 2, high - low], 1) * torch.cat(strides, 1)
        return torch.cat([boxes, of_class.sigmoid()], 1)


class Yolov5(nn.Module):
    """One convolution a stride for three anchors a cell, boxes decoded in the file."""

    strides = 8, 16, 32

    def __init__(self):
        super().__init__()
        self.pyramid = Pyramid(3)
        self.m = nn.ModuleList(nn.Conv2d(16, 3 * (5 + CLASSES), 1) for _ in range(3))
        sizes = torch.tensor([10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326])
        self.register_buffer("anchors", sizes.view(3, 1, 3, 1, 1, 2).float())

    def forward(self, images):
        rows = []
        for index, one in enumerate(self.pyramid(images)):
            numbers = self.m[index](one)
            _, _, height, width = numbers.shape
            numbers = numbers.view(1, 3, 5 + CLASSES, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            corner = torch.stack([x, y], 2) - 0.5
            xy, wh, rest = numbers.split((2, 2, 1 + CLASSES), 4)
            xy, wh = (xy * 2 + corner) * self.strides[index], (wh * 2) ** 2 * self.anchors[index]
            rows.append(torch.cat([xy, wh, rest], 4).view(1, 3 * height * width, 5 + CLASSES))
        return torch.cat(rows, 1)


def distances_to_boxes(numbers, strides, bins, centre):
    """The definition: distributions (1, 4 · bins, h, w) of each stride → (n, 4) xyxy in pixels."""
    found = []
    for one, stride in zip(numbers, strides, strict=True):
        _, _, height, width = one.shape
        mean = F.softmax(one.view(4, bins, height, width), 1)
        left, top, right, bottom = (mean * torch.arange(bins).view(1, -1, 1, 1)).sum(1) * stride
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        x, y = (x + centre) * stride, (y + centre) * stride
        found.append(torch.stack([x - left, y - top, x + right, y + bottom], 2).view(-1, 4))
    return torch.cat(found)


def make_family(network, seed=0):
    """A network of one of the families, whose classes spread."""
    torch.manual_seed(seed)
    made = network()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 4 and "dfl" not in name:
                parameter *= 1.8
    return made.eval().requires_grad_(False)


def write_family(network, path, size_px=SIZE_PX):
    """Its ONNX file, as torch's exporter writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            network, (torch.rand(1, 3, size_px, size_px),), path, dynamo=True, verbose=False,
            external_data=False, input_names=["images"],
        )  # fmt: skip
    return path
