"""Plain networks: `nn.Module`s that know nothing of schedules, samplers or files."""
