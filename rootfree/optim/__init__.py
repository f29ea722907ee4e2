"""Root-free and inverse-free adaptive gradient methods, as plain `torch.optim.Optimizer`s that need torch alone."""

from rootfree.optim.by_shape import ByShape
from rootfree.optim.if_shampoo import IFShampoo
from rootfree.optim.rf_adamw import RFAdamW
from rootfree.optim.rf_rmsprop import RFRMSProp
from rootfree.optim.rf_shampoo import RFShampoo
from rootfree.optim.shampoo import Shampoo

__all__ = ["ByShape", "IFShampoo", "RFAdamW", "RFRMSProp", "RFShampoo", "Shampoo"]
