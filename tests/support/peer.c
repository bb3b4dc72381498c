#include "support/peer.h"

#include "core/locks.h"
#include "util/lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ORDER_MAX = 64 };

static void answer(int fd, const char *text, size_t size)
{
	char out[ORDER_MAX] = "";

	memcpy(out, text, size);
	if (write(fd, out, sizeof out) != sizeof out)
		_exit(1);
}

static void obey(terrace *store, terrace_cache *cache, int fd, const char *order)
{
	terrace_value *value;
	char key[16] = "", text[32] = "";
	terrace_match match;
	int rc;

	sscanf(order + 1, " %15s %31s", key, text);
	switch (order[0]) {
	case 'g':
		rc = terrace_get(cache, terrace_str(key), &value);
		if (rc != TERRACE_OK) {
			answer(fd, "(miss)", 6);
			break;
		}
		answer(fd, terrace_data(value), terrace_size(value));
		terrace_release(value);
		break;
	case 'p':
		rc = put_text(cache, key, text);
		answer(fd, rc ? "(failed)" : "ok", rc ? 8 : 2);
		break;
	case 'd':
		terrace_delete(cache, terrace_str(key));
		answer(fd, "ok", 2);
		break;
	case 't':
		terrace_touch(cache, terrace_str(key), TERRACE_TTL_FOREVER);
		answer(fd, "ok", 2);
		break;
	case 'i':
		match = terrace_match_text(TERRACE_MATCH_PREFIX, key);
		terrace_invalidate(cache, &match, NULL);
		answer(fd, "ok", 2);
		break;
	case 'c':
		terrace_clear(cache, 0, NULL);
		answer(fd, "ok", 2);
		break;
	case 'f':
		answer(fd, terrace_flush(store) ? "(failed)" : "ok", 2);
		break;
	}
}

static void peer_run(const struct fixture *f, const terrace_policy *policy, int fd)
{
	char order[ORDER_MAX];
	terrace_cache *cache;
	terrace *store;

	if (terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) != TERRACE_OK ||
	    terrace_cache_open(store, "a", policy, &cache) != TERRACE_OK)
		_exit(1);
	while (read(fd, order, sizeof order) == sizeof order)
		obey(store, cache, fd, order);
	terrace_cache_close(cache);
	terrace_close(store);
	_exit(0);
}

struct peer peer_start(const struct fixture *f, const terrace_policy *policy)
{
	struct peer peer;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	peer.pid = fork();
	if (peer.pid == 0) {
		close(fds[0]);
		peer_run(f, policy, fds[1]);
	}
	close(fds[1]);
	peer.fd = fds[0];
	return peer;
}

void peer_end(struct peer *peer)
{
	int status;

	/* not close() alone: a peer that was started later has it open too */
	shutdown(peer->fd, SHUT_RDWR);
	close(peer->fd);
	assert_int_equal(waitpid(peer->pid, &status, 0), peer->pid);
	assert_int_equal(status, 0);
}

void peer_kill(struct peer *peer)
{
	kill(peer->pid, SIGKILL);
	assert_int_equal(waitpid(peer->pid, NULL, 0), peer->pid);
	close(peer->fd);
}

void tell(const struct peer *peer, const char *order)
{
	char out[ORDER_MAX] = "";

	snprintf(out, sizeof out, "%s", order);
	assert_int_equal(write(peer->fd, out, sizeof out), sizeof out);
}

const char *hear(const struct peer *peer)
{
	static char in[ORDER_MAX];

	assert_int_equal(read(peer->fd, in, sizeof in), sizeof in);
	return in;
}

int hold_writers(const struct fixture *f)
{
	int fd = open(scratch_path(&f->scratch, "store/v2/shared"), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(terrace__lock_wait(fd, LOCK_WRITER, true), 0);
	return fd;
}
