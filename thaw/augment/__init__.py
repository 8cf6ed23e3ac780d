"""Views of images, and the seeded draws behind them."""
