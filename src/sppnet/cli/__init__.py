"""The command line: the only code that prints or exits.

Commands import what they need when they run, so that help is instant. Standard output carries
results alone; progress, notes and errors go to standard error.
"""

from sppnet.cli.app import main as main
