/* What the trainer with a known compute time and its test agree on. */
#ifndef TESTS_INTEGRATION_LINK_TRAINER_H
#define TESTS_INTEGRATION_LINK_TRAINER_H

#define LINK_TENSORS 4
#define LINK_SIDE 256
#define LINK_COMPUTE_NS INT64_C(50000000)

#endif
