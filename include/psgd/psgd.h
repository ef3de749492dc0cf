/* All of libpsgd's public interface. SPDX-License-Identifier: MIT */
#ifndef PSGD_PSGD_H
#define PSGD_PSGD_H

#include <psgd/compressor.h>
#include <psgd/controller.h>
#include <psgd/cost.h>
#include <psgd/device.h>
#include <psgd/exchange.h>
#include <psgd/rank_control.h>
#include <psgd/session.h>
#include <psgd/shaper.h>
#include <psgd/state.h>
#include <psgd/status.h>
#include <psgd/streamed.h>
#include <psgd/tc.h>
#include <psgd/transport.h>
#include <psgd/types.h>
#include <psgd/version.h>

#endif
