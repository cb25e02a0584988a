"""Run the examples: `python docs/examples` for all, `python docs/examples NAME…` for some."""

import sys

import amended_result
import dropped_rows
import present_online
import stale_window
import tiled_window

EXAMPLES = {
    example.__name__: example.main
    for example in (stale_window, amended_result, tiled_window, dropped_rows, present_online)
}

for name in sys.argv[1:] or EXAMPLES:
    EXAMPLES[name]()
