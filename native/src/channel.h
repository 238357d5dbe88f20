#ifndef TF_SRC_CHANNEL_H
#define TF_SRC_CHANNEL_H

#include "stream.h"

#include <tracefleet/channel.h>

struct lttng_ust_ctl_consumer_channel;
struct tf_pump;

struct tf_channel {
	struct tf_channel_attributes attributes;
	char *name;
	struct tf_output *output; /* a reference; NULL: nothing reads the buffers */
	pthread_mutex_t lock;	  /* taken before the streams'; export and close */
	struct lttng_ust_ctl_consumer_channel *ust;
	bool is_closed; /* changes with the lock and all streams' locks held */
	struct tf_pump *pump; /* the pump's to change */
	struct tf_record_layouts *layouts;
	uint32_t stream_count;
	struct tf_stream streams[];
};

#endif
