"""From gradients to new weights: optimizer, schedule, guard, loss scale, delayed synchronisation."""
