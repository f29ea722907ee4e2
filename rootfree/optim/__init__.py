"""Root-free and inverse-free adaptive gradient methods, as plain `torch.optim.Optimizer`s that need torch alone."""

from rootfree.optim.rf_adamw import RFAdamW
from rootfree.optim.rf_rmsprop import RFRMSProp

__all__ = ["RFAdamW", "RFRMSProp"]
