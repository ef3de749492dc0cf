/* Learning rates, and the batches of a step, by epoch. SPDX-License-Identifier: MIT */
#ifndef IMAGE_SCHEDULE_H
#define IMAGE_SCHEDULE_H

#include <psgd/experiment/config.h>

/*
 * The learning rate of an epoch; it is constant within one. That of the epoch's stage, if it has
 * one; else PyTorch's SequentialLR of LinearLR and the scheduler: in the first warmup_epochs the
 * rate rises linearly from warmup_start_lr, or warmup_min_factor * learning_rate if that is more,
 * and the scheduler's own epochs count from there. After 5 epochs of warm-up a milestone at 150
 * acts at epoch 155.
 */
double schedule_learning_rate(const struct psgd_config *config, uint64_t epoch);

/* How many batches' gradients make one optimizer step of the epoch: base_sync_frequency, or 1. */
unsigned schedule_batches(const struct psgd_config *config, uint64_t epoch);

/* The most that schedule_batches says of any epoch. */
unsigned schedule_most_batches(const struct psgd_config *config);

/* Optimizer steps of an epoch of `batches` batches; the last may have fewer batches. */
uint64_t schedule_steps(const struct psgd_config *config, uint64_t epoch, uint64_t batches);

/* Of the whole run: training.epochs epochs, at most training.max_iterations. */
uint64_t schedule_total_steps(const struct psgd_config *config, uint64_t batches);

#endif
