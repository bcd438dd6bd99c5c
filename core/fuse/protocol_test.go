package fuse

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/feature"
	"github.com/lxbridge/lx/core/fuse/fusetest"
)

// connect serves fs to a played kernel until the test ends.
func connect(t *testing.T, fs FileSystem, cfg Config) (*fusetest.Kernel, *Server) {
	t.Helper()
	k, fd, err := fusetest.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(fs, cfg)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(context.Background(), fd)
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Wait(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	if r, err := k.Init(45); err != nil || r.Errno != 0 {
		t.Fatalf("INIT: %v, %v", r.Errno, err)
	}
	return k, s
}

func TestNegotiation(t *testing.T) {
	for _, c := range []struct {
		cfg       Config
		fs        FileSystem
		has, lack uint64
	}{
		{Config{}, &blank{}, initAsyncRead | initParallelDirops | initMaxPages | initPosixLocks | initFlockLocks |
			initReaddirplus | initDontMask | initSetxattrExt | initAtomicOTrunc | initIoctlDir | initResend,
			initWritebackCache | initReaddirplusAuto | initPosixACL | initCacheSymlinks | initHandleKillprivV2 | 1<<4},
		{Config{Writeback: true, ReaddirplusAuto: true, CacheSymlinks: true, PosixACL: true, HandleKillpriv: true, AutoInval: true}, &blank{},
			initWritebackCache | initReaddirplusAuto | initCacheSymlinks | initPosixACL | initHandleKillprivV2 | initAutoInvalData, initExplicitInvalData},
		{Config{ExplicitInval: true}, Dead, initExplicitInvalData, initPosixLocks | initReaddirplus},
	} {
		s, err := New(c.fs, c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		n, err := negotiate(&initIn{Major: 7, Minor: 99, MaxReadahead: 1 << 17, Flags: 1<<32 - 1, Flags2: 1<<32 - 1}, s.cfg, &s.can)
		if feature.Missing(feature.FuseWriteback) {
			c.has &^= initWritebackCache
		}
		if err != nil || n.Flags&c.has != c.has || n.Flags&c.lack != 0 || n.Minor != protoMinor ||
			n.MaxWrite != 1<<20 || n.MaxPages != 256 || n.MaxBackground != 128 || n.CongestionThreshold != 96 {
			t.Errorf("%+v: negotiated %+v, %v", c.cfg, n, err)
		}
		b, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var again Negotiated
		if err := json.Unmarshal(b, &again); err != nil || again != n {
			t.Errorf("through JSON: %+v, %v; want %+v", again, err, n)
		}
	}
	if _, err := negotiate(&initIn{Major: 7, Minor: 30}, Config{}, &abilities{}); err == nil {
		t.Error("protocol 7.30 is taken")
	}
}

func TestInterruptOfUnknownRequestAsksAgain(t *testing.T) {
	k, _ := connect(t, &blank{fail: t.Errorf}, Config{})
	c, err := k.Start(opInterrupt, 1001, 0, bytesOf(&interruptIn{1000}))
	if err != nil {
		t.Fatal(err)
	}
	if r := <-c; r.Errno != syscall.EAGAIN {
		t.Errorf("answer %v; want EAGAIN", r.Errno)
	}
}

func TestInterruptWaitsForDelay(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	fs := &blank{fail: t.Errorf, onLookup: func(ctx context.Context, _ string) (Entry, syscall.Errno) {
		close(began)
		select {
		case <-ctx.Done():
			return Entry{}, syscall.EINTR
		case <-end:
			return Entry{Node: 9}, 0
		}
	}}
	k, _ := connect(t, fs, Config{InterruptDelay: time.Hour})
	unique := k.Unique()
	c, err := k.Start(opLookup, unique, 1, []byte("slow\x00"))
	if err != nil {
		t.Fatal(err)
	}
	<-began
	if err := k.Send(fusetest.Message(opInterrupt, unique|1, 0, bytesOf(&interruptIn{unique}))); err != nil {
		t.Fatal(err)
	}
	if r, err := k.Call(opGetattr, 1, bytesOf(&getattrIn{})); err != nil || r.Errno != 0 {
		t.Fatal(r.Errno, err)
	}
	close(end)
	if r := <-c; r.Errno != 0 || at[entryOut](r.Body).Node != 9 {
		t.Errorf("answer %v; want node 9", r.Errno)
	}
}

// TestLateAnswers: what a FileSystem grants after its caller got ETIMEDOUT or
// EINTR is given back.
func TestLateAnswers(t *testing.T) {
	for name, interrupt := range map[string]bool{"timeout": false, "interrupt": true} {
		t.Run(name, func(t *testing.T) {
			began, end := make(chan context.Context, 1), make(chan struct{})
			forgot := make(chan uint64, 1)
			fs := &blank{fail: t.Errorf,
				onLookup: func(ctx context.Context, _ string) (Entry, syscall.Errno) {
					began <- ctx
					<-end
					return Entry{Node: 9}, 0
				},
				onForget: func(node, _ uint64) { forgot <- node },
			}
			cfg := Config{Timeout: 20 * time.Millisecond, Grace: 10 * time.Millisecond}
			want := syscall.ETIMEDOUT
			if interrupt {
				cfg, want = Config{InterruptDelay: -1, Grace: 10 * time.Millisecond}, syscall.EINTR
			}
			k, s := connect(t, fs, cfg)
			unique := k.Unique()
			c, err := k.Start(opLookup, unique, 1, []byte("slow\x00"))
			if err != nil {
				t.Fatal(err)
			}
			ctx := <-began
			if interrupt {
				if err := k.Send(fusetest.Message(opInterrupt, unique|1, 0, bytesOf(&interruptIn{unique}))); err != nil {
					t.Fatal(err)
				}
			} else if d, ok := ctx.Deadline(); !ok || time.Until(d) > cfg.Timeout {
				t.Errorf("deadline %v, %v", d, ok)
			}
			if r := <-c; r.Errno != want {
				t.Errorf("answer %v; want %v", r.Errno, want)
			}
			if ctx.Err() == nil {
				t.Error("the context goes on")
			}
			close(end)
			if node := <-forgot; node != 9 {
				t.Errorf("forgot node %d; want 9", node)
			}
			if late := s.Stats().Late; late != 1 {
				t.Errorf("%d late answers counted; want 1", late)
			}
		})
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	k, s := connect(t, &blank{fail: t.Errorf}, Config{})
	for op, b := range opBodies {
		if len(b) == 0 || op == opForget || op == opBatchForget || op == opInterrupt {
			continue
		}
		r, err := k.Call(op, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Errno != syscall.EINVAL && r.Errno != syscall.ENOSYS {
			t.Errorf("opcode %d without a body: %v", op, r.Errno)
		}
	}
	unique := k.Unique()
	c, err := k.Start(opLookup, unique, 1, []byte("no end"))
	if err != nil {
		t.Fatal(err)
	}
	if r := <-c; r.Errno != syscall.EINVAL {
		t.Errorf("a name without NUL: %v", r.Errno)
	}
	if err := k.Send([]byte("short")); err != nil {
		t.Fatal(err)
	}
	for _, op := range []uint32{0, 7, 54, 4096, 1 << 31} {
		if r, err := k.Call(op, 1, nil); err != nil || r.Errno != syscall.ENOSYS {
			t.Errorf("opcode %d: %v, %v; want ENOSYS", op, r.Errno, err)
		}
	}
	if st := s.Stats(); st.Unsent != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestListingsLeaveHostileNamesOut(t *testing.T) {
	k, _ := connect(t, &blank{fail: t.Errorf}, Config{})
	for _, op := range []uint32{opReaddir, opReaddirplus} {
		var got []string
		var off uint64
		for range 10000 {
			r, err := k.Call(op, 1, bytesOf(&readIn{Offset: off, Size: 4096}))
			if err != nil || r.Errno != 0 {
				t.Fatal(r.Errno, err)
			}
			if len(r.Body) == 0 {
				break
			}
			for b := r.Body; len(b) > 0; {
				rec := direntSize
				if op == opReaddirplus {
					rec = direntPlusSize
				}
				d := at[dirent](b[rec-direntSize:])
				name := string(b[rec : rec+int(d.Namelen)])
				if rec == direntPlusSize && (name == "." || name == "..") && at[entryOut](b).Node != 0 {
					t.Errorf("%q has a node", name)
				}
				got, off = append(got, name), d.Off
				b = b[align8(rec+int(d.Namelen)):]
			}
		}
		seen := map[string]int{}
		for _, name := range got {
			seen[name]++
		}
		if len(seen) != 4 || seen["."] == 0 || seen[".."] == 0 || seen["ok"] == 0 || seen["\xff\xfe"] == 0 {
			t.Errorf("opcode %d lists %v", op, seen)
		}
	}
}

func TestCallerAndContext(t *testing.T) {
	type key struct{}
	fs := &blank{fail: t.Errorf, onLookup: func(ctx context.Context, _ string) (Entry, syscall.Errno) {
		derived, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Hour)
		defer cancel()
		c, ok := CallerOf(derived)
		if want := (Caller{1000, 1000, 4242}); !ok || c != want {
			t.Errorf("caller %+v, %v; want %+v", c, ok, want)
		}
		if derived.Err() != nil {
			t.Error(derived.Err())
		}
		return Entry{}, 0
	}}
	k, _ := connect(t, fs, Config{})
	for range 3 { // the second and third have a new context
		if r, err := k.Call(opLookup, 1, []byte("a\x00")); err != nil || r.Errno != 0 {
			t.Fatal(r.Errno, err)
		}
	}
	if _, ok := CallerOf(context.Background()); ok {
		t.Error("the background has a caller")
	}
	want := Caller{UID: 5}
	if c, ok := CallerOf(WithCaller(context.Background(), want)); !ok || c != want {
		t.Errorf("WithCaller gives %+v, %v", c, ok)
	}
}

func TestContextEndsWithTheConnection(t *testing.T) {
	began := make(chan struct{})
	ended := make(chan error, 1)
	fs := &blank{fail: t.Errorf, onLookup: func(ctx context.Context, _ string) (Entry, syscall.Errno) {
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		close(began)
		<-derived.Done()
		ended <- derived.Err()
		return Entry{}, syscall.EINTR
	}}
	k, s := connect(t, fs, Config{})
	if _, err := k.Start(opLookup, k.Unique(), 1, []byte("a\x00")); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := k.Disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the context ended with %v", err)
	}
	if err := s.Serve(context.Background(), -1); err == nil {
		t.Error("a Server serves twice")
	}
}

// TestSendingIsNotWaiting: how long a large answer takes to be taken is not
// how long its handler takes, by which readers are started.
func TestSendingIsNotWaiting(t *testing.T) {
	rd := offline(t, &blank{fail: t.Errorf})
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel := os.NewFile(uintptr(fds[0]), "kernel")
	defer kernel.Close()
	defer syscall.Close(fds[1])
	rd.srv.fd = fds[1]
	msg := fusetest.Message(opRead, 2, 1, body(bytesOf(&readIn{Size: maxTransfer})))
	handled := make(chan time.Duration)
	go func() { handled <- rd.serve(at[inHeader](msg), msg, rd.srv.now()) }()
	head := make([]byte, outHeaderSize)
	if _, err := io.ReadFull(kernel, head); err != nil {
		t.Fatal(err)
	}
	taken := rd.srv.now() // the rest does not fit into the socket
	if _, err := io.CopyN(io.Discard, kernel, int64(at[outHeader](head).Len)-outHeaderSize); err != nil {
		t.Fatal(err)
	}
	if h := <-handled; h > taken {
		t.Errorf("the handler was done %v after its answer began to be taken", h-taken)
	}
}
