#include "intake.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* While one waits for a device, another reads; more than a few have nothing to add. */
#define THREAD_COUNT_MIN 2
#define THREAD_COUNT_MAX 4
/* The token of the intake's own descriptor. */
#define STOP_TOKEN UINT64_MAX
/* What one connection may report without another look for room: a packet, a hold, its end. */
#define REPORTS_RESERVED 3

struct tf_intake {
	int epoll_fd, stop_fd;
	int timer_fd; /* readable when reports should be taken */
	int thread_count;
	struct intake_worker workers[THREAD_COUNT_MAX];
	pthread_mutex_t target_lock; /* one set_target or remove at a time; taken before all others */
	pthread_mutex_t lock;	     /* of everything below, and of what the structs say */
	pthread_cond_t left;	     /* a turn is over */
	struct intake_table connections, streams;
	struct tf_intake_report *reports;
	size_t first_report, report_count, report_capacity;
	size_t promised_count; /* of reports */
	bool is_timed, is_urgent; /* timer_fd is set: to be readable soon, or at once */
};

static struct intake_connection *connection_of(struct intake_node *node)
{
	return (struct intake_connection *)(void *)((char *)node - offsetof(struct intake_connection, node));
}

static struct intake_stream *stream_of(struct intake_node *node)
{
	return (struct intake_stream *)(void *)((char *)node - offsetof(struct intake_stream, node));
}

/* With the intake's lock held. */
static struct intake_connection *find_connection(struct tf_intake *intake, uint64_t token)
{
	struct intake_node *node = tf_intake_table_find(&intake->connections, token);

	return node ? connection_of(node) : NULL;
}

/* ---- reports ---- */

/* With the intake's lock held: room for what every connection, and @extra ones, may report now. */
static int reserve_reports(struct tf_intake *intake, size_t extra)
{
	const size_t wanted = intake->report_count + intake->promised_count +
			      REPORTS_RESERVED * (intake->connections.count + extra);
	size_t capacity = intake->report_capacity ? intake->report_capacity : 64;
	struct tf_intake_report *reports;

	if (wanted <= intake->report_capacity - intake->first_report)
		return 0;
	while (capacity < 2 * wanted)
		capacity *= 2;
	if (capacity > intake->report_capacity) {
		reports = malloc(capacity * sizeof(*reports));
		if (!reports)
			return -ENOMEM;
		if (intake->report_count > 0)
			memcpy(reports, intake->reports + intake->first_report, intake->report_count * sizeof(*reports));
		free(intake->reports);
		intake->reports = reports;
		intake->report_capacity = capacity;
	} else {
		memmove(intake->reports, intake->reports + intake->first_report,
			intake->report_count * sizeof(*intake->reports));
	}
	intake->first_report = 0;
	return 0;
}

/* With the intake's lock held. */
static void set_timer(struct tf_intake *intake, bool is_urgent)
{
	/* Not 0, which would stop it. */
	const struct itimerspec at_once = { .it_value.tv_nsec = 1 };
	const struct itimerspec soon = { .it_value.tv_nsec = TF_INTAKE_REPORT_DELAY_MS * 1000000L };

	if (intake->is_urgent || (intake->is_timed && !is_urgent))
		return;
	intake->is_timed = true;
	intake->is_urgent = is_urgent;
	timerfd_settime(intake->timer_fd, 0, is_urgent ? &at_once : &soon, NULL);
}

/* With the intake's lock held: nothing is left to take. */
static void clear_timer(struct tf_intake *intake)
{
	const struct itimerspec never = { 0 };

	if (!intake->is_timed)
		return;
	intake->is_timed = intake->is_urgent = false;
	timerfd_settime(intake->timer_fd, 0, &never, NULL);
}

/* With the intake's lock held, room was reserved. */
static void push_report(struct tf_intake *intake, const struct tf_intake_report *report)
{
	intake->reports[intake->first_report + intake->report_count++] = *report;
	set_timer(intake, report->kind == TF_INTAKE_HOLD || report->kind == TF_INTAKE_CLOSED);
}

/* With the intake's lock held, room was reserved: of what happens with every packet. */
static void push_counted(struct intake_connection *connection, const struct tf_intake_report *report)
{
	push_report(connection->intake, report);
	/* It should not have to wait until somebody looks. */
	if (++connection->unread_report_count >= TF_INTAKE_REPORTS_PER_CONNECTION / 2)
		set_timer(connection->intake, true);
}

void tf_intake_push_own(struct intake_connection *connection, const struct tf_intake_report *report)
{
	pthread_mutex_lock(&connection->intake->lock);
	push_counted(connection, report);
	pthread_mutex_unlock(&connection->intake->lock);
}

void tf_intake_promise_report(struct tf_intake *intake)
{
	pthread_mutex_lock(&intake->lock);
	intake->promised_count++;
	pthread_mutex_unlock(&intake->lock);
}

void tf_intake_push_promised(struct tf_intake *intake, const struct tf_intake_report *report)
{
	struct intake_connection *connection;

	pthread_mutex_lock(&intake->lock);
	intake->promised_count--;
	connection = report->kind == TF_INTAKE_INDEX ? NULL : find_connection(intake, report->token);
	if (connection)
		push_counted(connection, report);
	else
		push_report(intake, report);
	pthread_mutex_unlock(&intake->lock);
}

static struct tf_intake_report report_of(const struct intake_connection *connection, int32_t kind)
{
	const struct intake_packet *packet = &connection->packet;
	struct tf_intake_report report = { .kind = kind, .token = connection->node.key };

	if (kind != TF_INTAKE_CLOSED) {
		report.handle = packet->handle;
		report.net_seq = packet->net_seq;
		report.data_size = packet->data_size;
		report.padding_size = packet->padding_size;
	}
	return report;
}

void tf_intake_report_packet(struct intake_connection *connection, uint64_t offset)
{
	struct tf_intake_report report =
		report_of(connection, connection->packet.is_beacon ? TF_INTAKE_BEACON : TF_INTAKE_PACKET);

	report.offset = offset;
	if (connection->fleet)
		tf_intake_fleet_describe(connection, &report);
	tf_intake_push_own(connection, &report);
}

/* ---- connections ---- */

/* A socket that can be written to wakes at once, whether it has bytes to read or not. */
#define AT_ONCE (EPOLLIN | EPOLLOUT)

/* With the intake's lock held. */
static void arm(struct intake_connection *connection, uint32_t events)
{
	struct epoll_event event = { .events = events | EPOLLONESHOT, .data.u64 = connection->node.key };

	epoll_ctl(connection->intake->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

static bool is_counted(int32_t kind)
{
	return kind == TF_INTAKE_PACKET || kind == TF_INTAKE_ENTRY || kind == TF_INTAKE_BEACON;
}

/* With the intake's lock held: a report of @connection that is_counted() was taken. */
static void note_taken(struct intake_connection *connection)
{
	connection->unread_report_count--;
	if (!connection->is_parked || connection->unread_report_count > TF_INTAKE_REPORTS_PER_CONNECTION / 2)
		return;
	connection->is_parked = false;
	arm(connection, AT_ONCE);
}

/* With the intake's lock held. */
static void end_turn(struct intake_connection *connection, enum intake_step step)
{
	struct tf_intake_report report;

	connection->has_turn = false;
	switch (step) {
	case INTAKE_HOLD:
	case INTAKE_OVER:
		connection->is_held = step == INTAKE_HOLD;
		connection->is_over = step == INTAKE_OVER;
		report = report_of(connection, connection->is_over ? TF_INTAKE_CLOSED : TF_INTAKE_HOLD);
		report.reason = connection->is_over ? 0 : connection->reason;
		report.error = connection->error;
		push_report(connection->intake, &report);
		break;
	case INTAKE_PARK:
		connection->is_parked = connection->unread_report_count > 0;
		if (!connection->is_parked) /* all were taken meanwhile */
			arm(connection, AT_ONCE);
		break;
	default:
		arm(connection, step == INTAKE_BLOCKED ? EPOLLOUT : EPOLLIN);
	}
	if (connection->is_leaving)
		pthread_cond_broadcast(&connection->intake->left);
}

static void serve(struct tf_intake *intake, struct intake_worker *worker, uint64_t token)
{
	struct intake_connection *connection;
	enum intake_step step;

	pthread_mutex_lock(&intake->lock);
	connection = find_connection(intake, token);
	/* The event may be older than what came of it. */
	if (!connection || connection->has_turn || connection->is_held || connection->is_parked || connection->is_over ||
	    connection->is_leaving) {
		pthread_mutex_unlock(&intake->lock);
		return;
	}
	connection->has_turn = true;
	pthread_mutex_unlock(&intake->lock);

	step = tf_intake_turn(connection, worker);
	if (step == INTAKE_OVER)
		tf_intake_stream_abort(connection);

	pthread_mutex_lock(&intake->lock);
	end_turn(connection, step);
	pthread_mutex_unlock(&intake->lock);
}

static void *run(void *argument)
{
	struct intake_worker *worker = argument;
	struct epoll_event event;

	for (;;) {
		/* One at a time, so that what is ready spreads over the threads. */
		if (epoll_wait(worker->intake->epoll_fd, &event, 1, -1) < 1)
			continue;
		if (event.data.u64 == STOP_TOKEN)
			return NULL;
		serve(worker->intake, worker, event.data.u64);
	}
}

static struct intake_connection *new_connection(struct tf_intake *intake, int fd, uint64_t token, int framing,
						uint64_t group)
{
	struct intake_connection *connection = calloc(1, sizeof(*connection));
	const int yes = 1;

	if (!connection)
		return NULL;
	connection->node.key = token;
	connection->intake = intake;
	connection->fd = fd;
	connection->group = group;
	connection->is_control = framing == TF_INTAKE_CONTROL;
	if (framing != TF_INTAKE_FLEET)
		return connection;
	connection->fleet = tf_intake_fleet_new();
	if (!connection->fleet) {
		free(connection);
		return NULL;
	}
	/* The sender waits for acknowledgements. Sockets that know no such option do not hold them back either. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return connection;
}

int tf_intake_add(struct tf_intake *intake, int fd, uint64_t token, int framing, uint64_t group)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = token };
	struct intake_connection *connection;
	int type, flags, ret;
	socklen_t size = sizeof(type);

	if (framing < TF_INTAKE_LTTNG || framing > TF_INTAKE_CONTROL || token == STOP_TOKEN)
		return -EINVAL;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
		return -errno;
	flags = fcntl(fd, F_GETFL);
	if (type != SOCK_STREAM || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -EINVAL;
	connection = new_connection(intake, fd, token, framing, group);
	if (!connection)
		return -ENOMEM;
	pthread_mutex_lock(&intake->lock);
	ret = find_connection(intake, token) ? -EEXIST : reserve_reports(intake, 1);
	if (ret == 0)
		ret = tf_intake_table_insert(&intake->connections, &connection->node);
	if (ret == 0 && epoll_ctl(intake->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		ret = -errno;
		tf_intake_table_remove(&intake->connections, &connection->node);
	}
	pthread_mutex_unlock(&intake->lock);
	if (ret < 0) {
		free(connection->fleet);
		free(connection);
	}
	return ret;
}

static void free_connection(struct intake_connection *connection)
{
	tf_intake_stream_abort(connection);
	if (!connection->is_control)
		close(connection->fd); /* the epoll forgets it with this, its last descriptor */
	free(connection->unsent);
	free(connection->kept);
	free(connection->fleet);
	free(connection);
}

int tf_intake_close(struct tf_intake *intake, uint64_t token)
{
	struct intake_connection *connection;

	pthread_mutex_lock(&intake->lock);
	connection = find_connection(intake, token);
	if (!connection || connection->is_leaving) {
		pthread_mutex_unlock(&intake->lock);
		return -ENOENT;
	}
	connection->is_leaving = true;
	while (connection->has_turn)
		pthread_cond_wait(&intake->left, &intake->lock);
	tf_intake_table_remove(&intake->connections, &connection->node);
	/* Somebody else may have a copy of the descriptor. */
	epoll_ctl(intake->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
	pthread_mutex_unlock(&intake->lock);
	free_connection(connection);
	return 0;
}

int tf_intake_resume(struct tf_intake *intake, uint64_t token)
{
	struct intake_connection *connection;
	int ret;

	pthread_mutex_lock(&intake->lock);
	connection = find_connection(intake, token);
	ret = connection ? reserve_reports(intake, 0) : -ENOENT;
	if (ret == 0 && connection->is_held) {
		connection->is_held = false;
		arm(connection, AT_ONCE);
	}
	pthread_mutex_unlock(&intake->lock);
	return ret;
}

int tf_intake_take_back(struct tf_intake *intake, uint64_t token, uint8_t bytes[TF_INTAKE_BACK_SIZE_MAX], size_t *reply_size)
{
	struct intake_connection *connection;
	int ret;

	pthread_mutex_lock(&intake->lock);
	connection = find_connection(intake, token);
	if (!connection)
		ret = -ENOENT;
	else if (!connection->is_control || !connection->is_held)
		ret = -EBUSY;
	else
		ret = (int)tf_intake_control_take_back(connection, bytes, reply_size);
	pthread_mutex_unlock(&intake->lock);
	return ret;
}

/* ---- streams ---- */

/* With the intake's lock held. */
static struct intake_stream *get_stream(struct tf_intake *intake, uint64_t handle)
{
	struct intake_node *node = tf_intake_table_find(&intake->streams, handle);

	if (!node)
		return NULL;
	stream_of(node)->reference_count++;
	return stream_of(node);
}

enum intake_step tf_intake_find_stream(struct intake_connection *connection, struct intake_stream **stream)
{
	struct tf_intake *intake = connection->intake;
	enum intake_step step = INTAKE_GO;

	*stream = NULL;
	pthread_mutex_lock(&intake->lock);
	if (connection->unread_report_count >= TF_INTAKE_REPORTS_PER_CONNECTION || reserve_reports(intake, 0) < 0)
		step = INTAKE_PARK;
	else
		*stream = get_stream(intake, connection->packet.handle);
	pthread_mutex_unlock(&intake->lock);
	return step;
}

void tf_intake_put_stream(struct tf_intake *intake, struct intake_stream *stream)
{
	bool is_last;

	pthread_mutex_lock(&intake->lock);
	is_last = --stream->reference_count == 0;
	pthread_mutex_unlock(&intake->lock);
	if (is_last)
		tf_intake_stream_free(stream);
}

struct intake_stream *tf_intake_get_stream(struct tf_intake *intake, uint64_t handle)
{
	struct intake_stream *stream;

	pthread_mutex_lock(&intake->lock);
	stream = get_stream(intake, handle);
	pthread_mutex_unlock(&intake->lock);
	return stream;
}

static int add_stream(struct tf_intake *intake, uint64_t handle, const struct tf_intake_target *target)
{
	struct intake_stream *stream = tf_intake_stream_new(handle);
	int ret;

	if (!stream)
		return -ENOMEM;
	ret = tf_intake_stream_set_target(stream, target);
	if (ret == 0) {
		pthread_mutex_lock(&intake->lock);
		ret = tf_intake_table_insert(&intake->streams, &stream->node);
		pthread_mutex_unlock(&intake->lock);
		if (ret < 0)
			stream->target.fd = stream->target.index_fd = -1; /* the caller's again */
	}
	if (ret < 0)
		tf_intake_stream_free(stream);
	return ret;
}

int tf_intake_set_target(struct tf_intake *intake, uint64_t handle, const struct tf_intake_target *target)
{
	struct intake_stream *stream;
	int ret;

	pthread_mutex_lock(&intake->target_lock);
	stream = tf_intake_get_stream(intake, handle);
	if (stream) {
		ret = tf_intake_stream_set_target(stream, target);
		tf_intake_put_stream(intake, stream);
	} else {
		ret = add_stream(intake, handle, target);
	}
	pthread_mutex_unlock(&intake->target_lock);
	return ret;
}

int tf_intake_join(struct tf_intake *intake, uint64_t handle, const struct tf_intake_index *index)
{
	struct intake_stream *stream = tf_intake_get_stream(intake, handle);
	int ret;

	if (!stream)
		return -ENOENT;
	ret = tf_intake_join_start(intake, stream, index);
	tf_intake_put_stream(intake, stream);
	return ret;
}

int tf_intake_unjoin(struct tf_intake *intake, uint64_t handle)
{
	struct intake_stream *stream = tf_intake_get_stream(intake, handle);

	if (!stream)
		return -ENOENT;
	tf_intake_join_stop(stream);
	tf_intake_put_stream(intake, stream);
	return 0;
}

int tf_intake_set_stop(struct tf_intake *intake, uint64_t handle, uint64_t stop_net_seq)
{
	struct intake_stream *stream = tf_intake_get_stream(intake, handle);
	int ret;

	if (!stream)
		return -ENOENT;
	pthread_mutex_lock(&stream->lock);
	stream->target.stop_net_seq = stop_net_seq;
	ret = stream->writer ? 1 : 0;
	tf_intake_join_stop(stream);
	pthread_mutex_unlock(&stream->lock);
	tf_intake_put_stream(intake, stream);
	return ret;
}

int tf_intake_revoke(struct tf_intake *intake, uint64_t handle)
{
	struct intake_stream *stream = tf_intake_get_stream(intake, handle);

	if (!stream)
		return -ENOENT;
	tf_intake_stream_revoke(stream);
	tf_intake_put_stream(intake, stream);
	return 0;
}

int tf_intake_remove(struct tf_intake *intake, uint64_t handle)
{
	struct intake_stream *stream;

	pthread_mutex_lock(&intake->target_lock);
	stream = tf_intake_get_stream(intake, handle);
	if (stream) {
		tf_intake_stream_remove(stream);
		pthread_mutex_lock(&intake->lock);
		tf_intake_table_remove(&intake->streams, &stream->node);
		stream->reference_count--; /* the table's; ours is left */
		pthread_mutex_unlock(&intake->lock);
		tf_intake_put_stream(intake, stream);
	}
	pthread_mutex_unlock(&intake->target_lock);
	return stream ? 0 : -ENOENT;
}

int tf_intake_books(struct tf_intake *intake, uint64_t handle, struct tf_intake_books *books)
{
	struct intake_stream *stream = tf_intake_get_stream(intake, handle);

	if (!stream)
		return -ENOENT;
	pthread_mutex_lock(&stream->lock);
	*books = stream->books;
	books->offset = stream->target.offset;
	books->received_bytes = stream->received;
	books->is_under_way = stream->writer != NULL;
	pthread_mutex_unlock(&stream->lock);
	tf_intake_put_stream(intake, stream);
	return 0;
}

/* ---- the intake itself ---- */

int tf_intake_fd(const struct tf_intake *intake)
{
	return intake->timer_fd;
}

/* With the intake's lock held. */
static size_t take_reports(struct tf_intake *intake, struct tf_intake_report *reports, size_t capacity)
{
	const size_t count = intake->report_count < capacity ? intake->report_count : capacity;

	for (size_t i = 0; i < count; i++) {
		struct intake_connection *connection;

		reports[i] = intake->reports[intake->first_report + i];
		connection = find_connection(intake, reports[i].token);
		if (connection && is_counted(reports[i].kind))
			note_taken(connection);
	}
	intake->first_report += count;
	intake->report_count -= count;
	if (intake->report_count == 0) {
		intake->first_report = 0;
		clear_timer(intake);
	}
	return count;
}

int tf_intake_wait(struct tf_intake *intake, int timeout_ms, struct tf_intake_report *reports, size_t capacity)
{
	struct pollfd event = { .fd = intake->timer_fd, .events = POLLIN };
	size_t count;

	if (timeout_ms != 0)
		poll(&event, 1, timeout_ms);
	pthread_mutex_lock(&intake->lock);
	count = take_reports(intake, reports, capacity);
	pthread_mutex_unlock(&intake->lock);
	return (int)count;
}

void tf_intake_wake(struct tf_intake *intake)
{
	pthread_mutex_lock(&intake->lock);
	set_timer(intake, true);
	pthread_mutex_unlock(&intake->lock);
}

static int start_threads(struct tf_intake *intake, int wanted)
{
	struct intake_worker *worker;
	sigset_t all, old;
	int ret = 0;

	if (wanted == 0) {
		wanted = get_nprocs();
		if (wanted < THREAD_COUNT_MIN)
			wanted = THREAD_COUNT_MIN;
	}
	if (wanted > THREAD_COUNT_MAX)
		wanted = THREAD_COUNT_MAX;
	/* Signals are for the program's own threads; only what a thread does to itself stays its own. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (ret == 0 && intake->thread_count < wanted) {
		worker = &intake->workers[intake->thread_count];
		worker->intake = intake;
		ret = tf_intake_worker_init(worker);
		if (ret == 0)
			ret = -pthread_create(&worker->thread, NULL, run, worker);
		if (ret < 0)
			tf_intake_worker_destroy(worker);
		else
			pthread_setname_np(intake->workers[intake->thread_count++].thread, "tf-intake");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return intake->thread_count > 0 ? 0 : ret;
}

int tf_intake_create(int thread_count, struct tf_intake **out)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = STOP_TOKEN };
	struct tf_intake *intake;
	int ret;

	if (thread_count < 0)
		return -EINVAL;
	intake = calloc(1, sizeof(*intake));
	if (!intake)
		return -ENOMEM;
	pthread_mutex_init(&intake->target_lock, NULL);
	pthread_mutex_init(&intake->lock, NULL);
	pthread_cond_init(&intake->left, NULL);
	intake->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	intake->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	intake->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (intake->epoll_fd < 0 || intake->stop_fd < 0 || intake->timer_fd < 0 ||
	    epoll_ctl(intake->epoll_fd, EPOLL_CTL_ADD, intake->stop_fd, &event) < 0)
		ret = -errno;
	else
		ret = start_threads(intake, thread_count);
	if (ret < 0)
		tf_intake_free(intake);
	else
		*out = intake;
	return ret;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void tf_intake_free(struct tf_intake *intake)
{
	const uint64_t one = 1;
	struct intake_node *node;
	ssize_t written;

	if (!intake)
		return;
	if (intake->thread_count > 0) {
		written = write(intake->stop_fd, &one, sizeof(one));
		(void)written; /* an eventfd at 0 takes it */
	}
	for (int i = 0; i < intake->thread_count; i++) {
		pthread_join(intake->workers[i].thread, NULL);
		tf_intake_worker_destroy(&intake->workers[i]);
	}
	while ((node = tf_intake_table_any(&intake->connections))) {
		tf_intake_table_remove(&intake->connections, node);
		free_connection(connection_of(node));
	}
	while ((node = tf_intake_table_any(&intake->streams))) {
		tf_intake_table_remove(&intake->streams, node);
		tf_intake_put_stream(intake, stream_of(node));
	}
	tf_intake_table_free(&intake->connections);
	tf_intake_table_free(&intake->streams);
	free(intake->reports);
	close_if_open(intake->epoll_fd);
	close_if_open(intake->stop_fd);
	close_if_open(intake->timer_fd);
	pthread_cond_destroy(&intake->left);
	pthread_mutex_destroy(&intake->lock);
	pthread_mutex_destroy(&intake->target_lock);
	free(intake);
}
