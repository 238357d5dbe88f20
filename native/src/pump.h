#ifndef TF_SRC_PUMP_H
#define TF_SRC_PUMP_H

#include <tracefleet/pump.h>

/* Something happened to @channel outside its pump that the pump may have to report or to wait for. No lock held. */
void tf_pump_notice(struct tf_channel *channel);

#endif
