"""Pretraining, few-shot tasks, meta-training, adaptation, and the experiments on them."""
