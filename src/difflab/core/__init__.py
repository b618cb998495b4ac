"""The mathematics: schedules, predictions, denoisers, samplers. Tensors in, tensors out; no files, no progress bars."""
