"""Fine-tune a pretrained image network phase by phase, and keep what helps."""

import sys

if sys.platform == "win32":
    sys.exit("Thaw runs on Linux and macOS, not on Windows; install it inside WSL 2")
