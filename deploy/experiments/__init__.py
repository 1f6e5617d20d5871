"""The papers' trends on the simulator, whose true rewards are known: `onerec experiment NAME`."""
