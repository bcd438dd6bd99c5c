package smb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/cloudsoda/go-smb2"

	"github.com/lxbridge/lx/integration/smbtest"
	"github.com/lxbridge/lx/mount/volume"
)

const benchSize = 64 << 20

// subject is what is measured: the volume, or the bare transport beside it.
type subject struct {
	read, write func(p []byte, off int64) error
	stat        func() error
	make, drop  func(name string) error
}

func subjects(b *testing.B) map[string]subject {
	s := smbtest.New(b, smbtest.Options{})
	v := dial(b, config(s, smbtest.Data))
	list := map[string]subject{}
	for name, ctx := range map[string]context.Context{"volume": context.Background(), "volume-cancellable": b.Context()} {
		n, _, h, err := v.Create(ctx, v.Root(), name, os.O_RDWR, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = h.Close(context.Background()) })
		list[name] = subject{
			read:  func(p []byte, off int64) error { _, err := h.ReadAt(ctx, p, off); return err },
			write: func(p []byte, off int64) error { _, err := h.WriteAt(ctx, p, off); return err },
			stat: func() error {
				n, _, err := v.Lookup(ctx, v.Root(), name)
				if err == nil {
					v.Forget(n)
				}
				return err
			},
			make: func(name string) error {
				n, _, h, err := v.Create(ctx, v.Root(), name, os.O_RDWR|os.O_EXCL, 0o644)
				if err != nil {
					return err
				}
				defer v.Forget(n)
				return h.Close(ctx)
			},
			drop: func(name string) error { return v.Unlink(ctx, v.Root(), name) },
		}
		_ = volume.Node(n)
	}
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		b.Fatal(err)
	}
	session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User, Password: s.Password}}).DialConn(b.Context(), conn, s.Host)
	if err != nil {
		b.Fatal(err)
	}
	share, err := session.Mount(smbtest.Data)
	if err != nil {
		b.Fatal(err)
	}
	f, err := share.OpenFile("bare", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = session.Logoff() })
	list["bare"] = subject{
		read:  func(p []byte, off int64) error { _, err := f.ReadAt(p, off); return err },
		write: func(p []byte, off int64) error { _, err := f.WriteAt(p, off); return err },
		stat:  func() error { _, err := share.Lstat("bare"); return err },
		make: func(name string) error {
			f, err := share.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
			if err != nil {
				return err
			}
			return f.Close()
		},
		drop: func(name string) error { return share.Remove(name) },
	}
	for name, s := range list {
		for off := int64(0); off < benchSize; off += 1 << 20 {
			if err := s.write(make([]byte, 1<<20), off); err != nil {
				b.Fatal(name, err)
			}
		}
	}
	return list
}

func BenchmarkTransport(b *testing.B) {
	list := subjects(b)
	for _, name := range []string{"bare", "volume", "volume-cancellable"} {
		s := list[name]
		run := func(what string, size, depth int, do func(i int, p []byte) error) {
			b.Run(fmt.Sprintf("%s/%s", what, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var wg sync.WaitGroup
				next := make(chan int, depth)
				for range depth {
					wg.Go(func() {
						p := make([]byte, size)
						for i := range next {
							if err := do(i, p); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for i := range b.N {
					next <- i
				}
				close(next)
				wg.Wait()
			})
		}
		at := func(i int) int64 { return int64(i) << 20 % benchSize }
		for _, depth := range []int{1, 4} {
			run(fmt.Sprintf("read-1M-%d", depth), 1<<20, depth, func(i int, p []byte) error { return s.read(p, at(i)) })
			run(fmt.Sprintf("write-1M-%d", depth), 1<<20, depth, func(i int, p []byte) error { return s.write(p, at(i)) })
		}
		for _, depth := range []int{1, 32} {
			run(fmt.Sprintf("read-4K-%d", depth), 4096, depth, func(_ int, p []byte) error { return s.read(p, rand.Int64N(benchSize/4096)*4096) })
			run(fmt.Sprintf("stat-%d", depth), 0, depth, func(int, []byte) error { return s.stat() })
			run(fmt.Sprintf("create+delete-%d", depth), 0, depth, func(i int, _ []byte) error {
				name := fmt.Sprintf("f%d", i)
				if err := s.make(name); err != nil {
					return err
				}
				return s.drop(name)
			})
		}
	}
}
