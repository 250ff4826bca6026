"""What is observed: children and pods, decoded to the little that is looked at."""
