"""From a corpus to a trained state: data, objective, optimizer, schedule, step, loop, checkpoint, evaluation."""
