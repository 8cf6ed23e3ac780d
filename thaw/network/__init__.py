"""Networks: build one, list its blocks, cut it at a block boundary, and run what lies below as inference."""
