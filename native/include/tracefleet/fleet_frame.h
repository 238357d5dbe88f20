#ifndef TRACEFLEET_FLEET_FRAME_H
#define TRACEFLEET_FLEET_FRAME_H

/*
 * How packets travel between our own daemons: the connection begins with a greeting; then come frames, a header with
 * data_size bytes behind it; in the other direction acknowledgements. Everything is little-endian, checksums are
 * CRC-32C.
 *
 * Packets of a stream are numbered without a gap. An acknowledgement stands for all packets of its stream up to
 * its sequence. A refusal stands for nothing; it says after which sequence to go on, and what was sent behind the
 * refused packet is refused as well. Packets that were acknowledged may be sent again at any time: they are
 * acknowledged again, and not stored again.
 *
 * Metadata travels as the packets of a stream of its own, one for each piece that was published, before the first packet
 * that needs it.
 */

#include <stdint.h>

#define TF_FLEET_GREETING_MAGIC 0x31686674u /* "tfh1" */
#define TF_FLEET_HEADER_MAGIC 0x31706674u   /* "tfp1" */
#define TF_FLEET_ACK_MAGIC 0x31616674u	    /* "tfa1" */
#define TF_FLEET_VERSION 1u
/* As sequence of an acknowledgement: nothing of the stream was written yet. */
#define TF_FLEET_NO_SEQUENCE UINT64_MAX

/* The token is that of the session (messages/relay_streaming.py); the connection serves its streams only. */
struct tf_fleet_greeting {
	uint32_t magic;
	uint32_t version;
	uint8_t token[16];
	uint32_t reserved;     /* 0 */
	uint32_t greeting_crc; /* of the 28 bytes before */
};

enum tf_fleet_flags {
	/*
	 * Not a packet: nothing happened in the stream up to timestamp_end. Neither numbered nor acknowledged; sequence
	 * is that of the next packet, sizes are 0. What is of use no more may be left out.
	 */
	TF_FLEET_BEACON = 1,
};

struct tf_fleet_header {
	uint32_t magic;
	uint32_t header_crc; /* of the header with 0 here */
	uint64_t handle;
	uint64_t sequence;
	uint32_t data_size;
	uint32_t padding_size; /* zeros that do not travel, and belong after the data in the file */
	uint32_t payload_crc;  /* of the data; 0: not checked */
	uint32_t flags;	       /* of enum tf_fleet_flags; others are refused */
	/* The index entry; its offset is the receiver's. Sizes in bits, times in clock cycles. */
	uint64_t packet_size, content_size; /* packet_size: data and padding */
	uint64_t timestamp_begin, timestamp_end;
	uint64_t events_discarded;
	uint64_t stream_class_id, stream_instance_id;
	uint64_t packet_seq_num;
	uint64_t reserved[3]; /* 0; ignored */
};

enum tf_fleet_status {
	TF_FLEET_WRITTEN = 0,
	TF_FLEET_SYNCED = 1,  /* the device has it */
	TF_FLEET_GAP = 2,     /* refused: not the number after sequence */
	TF_FLEET_CORRUPT = 3, /* refused: the data is not what payload_crc says */
};

struct tf_fleet_ack {
	uint32_t magic;
	uint32_t status;
	uint64_t handle;
	uint64_t sequence;
};

_Static_assert(sizeof(struct tf_fleet_greeting) == 32, "tfh1");
_Static_assert(sizeof(struct tf_fleet_header) == 128, "tfp1");
_Static_assert(sizeof(struct tf_fleet_ack) == 24, "tfa1");

#endif
