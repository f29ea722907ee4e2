"""What does the square root in adaptive gradient methods do, and what happens when it is removed?"""

__version__ = "0.1.0"
