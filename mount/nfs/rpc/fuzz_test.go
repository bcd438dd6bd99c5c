package rpc_test

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/lxbridge/lx/mount/nfs/rpc"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// FuzzReply has a server answer with any bytes: nothing panics or hangs, and a
// call gets an answer or an error.
func FuzzReply(f *testing.F) {
	reply := func(v ...uint32) []byte {
		var e xdr.Encoder
		for _, w := range v {
			e.Uint32(w)
		}
		return e.Bytes()
	}
	const last = 1 << 31
	f.Add(reply(last|28, 0, 1, 0, 0, 0, 0, 0), false)
	f.Add(reply(last|32, 0, 1, 0, 0, 0, 0, 4), true)
	f.Add(reply(8, 0, 1, last|20, 0, 0, 0, 0, 7), true)
	f.Add(reply(last|20, 0, 1, 1, 1, 5), false)
	f.Add(reply(last|44, 9, 0, 2, 3, 1, 1, 0, 0, 0, 0, 8), false)
	f.Add(reply(0, 0, 0, 0, 0), true)
	f.Fuzz(func(t *testing.T, answer []byte, direct bool) {
		client, server := net.Pipe()
		defer server.Close()
		served := make(chan struct{})
		go func() {
			defer close(served)
			in := make([]byte, 44)
			n := 0
			for n < len(in) {
				m, err := server.Read(in[n:])
				if err != nil {
					return
				}
				n += m
			}
			// A reply to this very call, where it looks like one.
			for at := 4; at+8 <= len(answer) && at <= 16; at += 4 {
				if binary.BigEndian.Uint32(answer[at:]) == 0 && binary.BigEndian.Uint32(answer[at+4:]) == 1 {
					copy(answer[at:], in[4:8])
					break
				}
			}
			go func() { // what the client says to that
				p := make([]byte, 512)
				for {
					if _, err := server.Read(p); err != nil {
						return
					}
				}
			}()
			server.Write(answer)
			server.Close()
		}()
		c, err := rpc.Dial(t.Context(), rpc.Config{
			Dial: func(context.Context, string, string, int) (net.Conn, error) {
				if client == nil {
					return nil, net.ErrClosed
				}
				nc := client
				client = nil
				return nc, nil
			},
			Network: "tcp", Addr: "server:2049", MaxRecord: 4096, Timeout: 5 * time.Second, Retrans: -1, Recovery: rpc.Soft,
			Serve: func(_ context.Context, in *rpc.Incoming, results *xdr.Encoder) rpc.Status {
				results.Opaque(in.Args.Opaque(100))
				return 0
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		call := c.NewCall(1, nil)
		r := &into{p: make([]byte, 64)}
		if direct {
			call.Into = r
		}
		if err := c.Do(t.Context(), call); err == nil && !direct {
			call.Results.Opaque(1000)
		}
		call.Free()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
}
