"""What surrounds a stage: its guard, artifact folders with manifests, the scratch folder, timings."""
