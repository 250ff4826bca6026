"""Which signal and which behaviour scale engine pods best, by simulation of the HPA's own algorithm."""
