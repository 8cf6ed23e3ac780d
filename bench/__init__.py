"""What backs every figure in docs/benchmarks.md; each file is one bench and prints one JSON line."""
