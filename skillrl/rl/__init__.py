"""Learning: outcomes, advantages, losses, packing, learner."""
