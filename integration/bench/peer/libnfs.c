/* The raw client beside which mounts are measured: libnfs by its asynchronous
 * calls, from one thread.
 *
 *	libnfs URL WORK ARGUMENT...
 *
 * URL names the directory to mount. Each work prints one figure, in the unit of
 * the workload of the same name; "cpu-" before it: milliseconds of processor
 * time for each MiB. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <nfsc/libnfs.h>

enum { PIECE = 1 << 20, SMALL = 4096, DEPTH = 8, CREATED = 1024 };

static struct nfs_context *nfs;
static struct nfsfh *file;
static char buffer[PIECE];
static long *order; /* of the pieces to read */
static long flying;

static void die(const char *what)
{
	fprintf(stderr, "libnfs: %s: %s\n", what, nfs_get_error(nfs));
	exit(1);
}

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* done ends a call, which must have answered as much as private says. */
static void done(int status, struct nfs_context *c, void *data, void *private)
{
	flying--;
	if (status != (intptr_t)private) {
		fprintf(stderr, "libnfs: %d instead of %ld: %s\n", status, (long)(intptr_t)private, status < 0 && data ? (char *)data : "");
		exit(1);
	}
}

/* run makes n calls, depth of them at once. */
static void run(long n, int depth, int (*begin)(long i))
{
	for (long next = 0; next < n || flying > 0;) {
		while (next < n && flying < depth) {
			flying++;
			if (begin(next++) < 0)
				die("cannot begin a call");
		}
		struct pollfd p = {nfs_get_fd(nfs), nfs_which_events(nfs), 0};
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			die("poll");
		if (nfs_service(nfs, p.revents) < 0)
			die("service");
	}
}

static int read_piece(long i)
{
	return nfs_pread_async(nfs, file, (uint64_t)i * PIECE, PIECE, done, (void *)PIECE);
}

static int write_piece(long i)
{
	return nfs_pwrite_async(nfs, file, (uint64_t)i * PIECE, PIECE, buffer, done, (void *)PIECE);
}

static int read_small(long i)
{
	return nfs_pread_async(nfs, file, (uint64_t)order[i] * SMALL, SMALL, done, (void *)SMALL);
}

static const char *name(long i)
{
	static char s[32];
	snprintf(s, sizeof s, "/f%ld", i);
	return s;
}

static int stat_file(long i)
{
	return nfs_lstat64_async(nfs, name(i), done, NULL);
}

static long size_of(const char *path)
{
	struct nfs_stat_64 st;
	if (nfs_open(nfs, path, O_RDONLY, &file) < 0 || nfs_fstat64(nfs, file, &st) < 0)
		die(path);
	return st.nfs_size;
}

static void shuffle(long n)
{
	order = malloc(n * sizeof *order);
	for (long i = 0; i < n; i++)
		order[i] = i;
	for (long i = n - 1; i > 0; i--) {
		long j = random() % (i + 1), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
}

static void create(const char *path)
{
	if (nfs_open2(nfs, path, O_CREAT | O_WRONLY, 0644, &file) < 0)
		die(path);
}

static void create_file(const char *path)
{
	create(path);
	if (nfs_pwrite(nfs, file, 0, CREATED, buffer) != CREATED || nfs_close(nfs, file) < 0)
		die(path);
}

static void list(long want)
{
	struct nfsdir *dir;
	struct nfsdirent *e;
	if (nfs_opendir(nfs, "/", &dir) < 0)
		die("opendir");
	while ((e = nfs_readdir(nfs, dir)))
		if (strcmp(e->name, ".") && strcmp(e->name, ".."))
			want -= e->size > 0; /* its attributes are there */
	nfs_closedir(nfs, dir);
	if (want != 0)
		die("not all entries were listed");
}

int main(int argc, char **argv)
{
	struct nfs_url *url;
	if (argc < 4) {
		fprintf(stderr, "usage: libnfs URL WORK ARGUMENT...\n");
		return 2;
	}
	nfs = nfs_init_context();
	if (!nfs || !(url = nfs_parse_url_dir(nfs, argv[1])))
		die("the URL");
	if (nfs_mount(nfs, url->server, url->path) < 0)
		die("mount");
	memset(buffer, 'x', sizeof buffer);
	srandom(time(NULL));
	const char *work = argv[2], *arg = argv[3];
	long n = argc > 4 ? atol(argv[4]) : 0, more = argc > 5 ? atol(argv[5]) : 0;
	int cpu = !strncmp(work, "cpu-", 4);
	if (cpu)
		work += 4;
	clockid_t clock = cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;

	double start, figure, bytes = 0, count = 0;
	if (!strcmp(work, "seqread")) {
		bytes = size_of(arg);
		start = seconds(clock);
		run(bytes / PIECE, DEPTH, read_piece);
	} else if (!strcmp(work, "seqwrite")) {
		create(arg);
		bytes = (double)n * PIECE;
		start = seconds(clock);
		run(n, DEPTH, write_piece);
		if (nfs_fsync(nfs, file) < 0)
			die("fsync");
	} else if (!strcmp(work, "randread")) {
		shuffle(size_of(arg) / SMALL);
		count = more;
		start = seconds(clock);
		run(more, n, read_small);
	} else if (!strcmp(work, "statmany")) {
		count = n;
		start = seconds(clock);
		run(n, more, stat_file);
	} else if (!strcmp(work, "list")) {
		count = n;
		start = seconds(clock);
		list(n);
	} else if (!strcmp(work, "create1k")) {
		count = n;
		start = seconds(clock);
		for (long i = 0; i < n; i++)
			create_file(name(i));
	} else if (!strcmp(work, "delete")) {
		count = n;
		start = seconds(clock);
		for (long i = 0; i < n; i++)
			if (nfs_unlink(nfs, name(i)) < 0)
				die("unlink");
	} else {
		fprintf(stderr, "libnfs: no work %s\n", work);
		return 2;
	}
	double took = seconds(clock) - start;
	figure = cpu ? took * 1e3 / (bytes / PIECE) : bytes ? bytes / 1e6 / took : count / took;
	if (!strcmp(work, "seqwrite") && (nfs_close(nfs, file) < 0 || nfs_unlink(nfs, arg) < 0))
		die(arg);
	printf("%g\n", figure);
	return 0;
}
