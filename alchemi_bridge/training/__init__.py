"""Training of DeePMD models on torch.distributed."""
