#ifndef TF_TESTS_INTAKE_PEER_H
#define TF_TESTS_INTAKE_PEER_H

/* The other side of an intake: peers on real sockets, files below `root`, and strict looks at reports. */

#include "trace.h"

#include <tracefleet/intake.h>

#define HEADER_SIZE 32
#define DEADLINE_MS 20000

extern char root[64]; /* made by the test */

/* Every byte tells where it belongs. */
uint8_t byte_of(uint64_t handle, uint64_t net_seq, size_t at);
void fill(uint8_t *bytes, uint64_t handle, uint64_t net_seq, size_t size);

/* LTTng's header, and a whole packet as it travels; the caller frees it. */
void put_header(uint8_t *bytes, uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size);
uint8_t *make_packet(uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size, size_t *size);

void send_bytes(int fd, const uint8_t *bytes, size_t size);
void send_packet(int fd, uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size);
void connect_tcp(int ends[2]);
/* The peer's end of a new connection with LTTng's framing. */
int add_peer(struct tf_intake *intake, uint64_t token);

int open_file(const char *name, int flags);
uint64_t size_of(const char *name);
struct tf_intake_target target_of(const char *name, uint64_t offset);
void set_target(struct tf_intake *intake, uint64_t handle, const char *name, uint64_t offset);
void check_packet(const char *name, uint64_t offset, uint64_t handle, uint64_t net_seq, uint32_t data_size,
		  uint32_t padding_size);

struct tf_intake *open_intake(void);
struct tf_intake_report next_report(struct tf_intake *intake);
struct tf_intake_report expect(struct tf_intake *intake, int32_t kind, int32_t reason, int32_t error);
void expect_packet(struct tf_intake *intake, uint64_t token, uint64_t handle, uint64_t net_seq, uint64_t offset);
void expect_nothing(struct tf_intake *intake);
struct tf_intake_books books_of(struct tf_intake *intake, uint64_t handle);
/* Until so many bytes of the packet under way are in the file. */
void wait_received(struct tf_intake *intake, uint64_t handle, uint64_t size);

#endif
