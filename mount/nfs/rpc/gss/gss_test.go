package gss

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/lxbridge/lx/mount/nfs/rpc"
)

func pair(t testing.TB) (client, server *keys, key types.EncryptionKey) {
	t.Helper()
	key = types.EncryptionKey{KeyType: 18, KeyValue: bytes.Repeat([]byte{7}, 32)}
	client, err := newKeys(key, flagSubkey, 40)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = newKeys(key, flagSubkey|flagAcceptor, 90); err != nil {
		t.Fatal(err)
	}
	server.ours, server.theirs = server.theirs, server.ours
	return client, server, key
}

// TestTokens: what we make, the library's own implementation takes.
func TestTokens(t *testing.T) {
	client, _, key := pair(t)
	var mic gssapi.MICToken
	if err := mic.Unmarshal(client.sign([]byte("message")), false); err != nil {
		t.Fatal(err)
	}
	mic.Payload = []byte("message")
	if ok, err := mic.Verify(key, keyusage.GSSAPI_INITIATOR_SIGN); !ok || mic.SndSeqNum != 40 {
		t.Errorf("number %d, %v", mic.SndSeqNum, err)
	}
	sealed, err := client.wrap([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := crypto.DecryptMessage(sealed[headerLen:], key, keyusage.GSSAPI_INITIATOR_SEAL)
	if err != nil || string(plain[:6]) != "secret" || !bytes.Equal(plain[6:], sealed[:headerLen]) {
		t.Errorf("%q, %v", plain, err)
	}
}

// TestForged: no bit of a token may change.
func TestForged(t *testing.T) {
	client, server, _ := pair(t)
	mic := server.sign([]byte("message"))
	sealed, err := server.wrap([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.verify([]byte("message"), mic); err != nil {
		t.Error(err)
	}
	if p, err := client.unwrap(sealed); err != nil || string(p) != "secret" {
		t.Errorf("%q, %v", p, err)
	}
	if err := client.verify([]byte("massage"), mic); !errors.Is(err, errForged) {
		t.Error(err)
	}
	for _, token := range [][]byte{mic, sealed} {
		for i := range token {
			bad := bytes.Clone(token)
			bad[i] ^= 4
			if err := client.verify([]byte("message"), bad); !errors.Is(err, errForged) {
				t.Errorf("byte %d of a MIC: %v", i, err)
			}
			if p, err := client.unwrap(bad); !errors.Is(err, errForged) {
				t.Errorf("byte %d of a sealed message: %q, %v", i, p, err)
			}
		}
	}
	// Rotated, as some servers send it.
	rotated := append(bytes.Clone(sealed[:headerLen]), append(bytes.Clone(sealed[len(sealed)-28:]), sealed[headerLen:len(sealed)-28]...)...)
	rotated[7] = 28
	if p, err := client.unwrap(rotated); err != nil || string(p) != "secret" {
		t.Errorf("rotated: %q, %v", p, err)
	}
}

// FuzzToken has the decoders of tokens look at any bytes.
func FuzzToken(f *testing.F) {
	client, server, key := pair(f)
	f.Add(server.sign(nil))
	if sealed, err := server.wrap([]byte("secret")); err == nil {
		f.Add(sealed)
	}
	f.Add([]byte("\x60\x0b\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x02\x00"))
	f.Fuzz(func(t *testing.T, token []byte) {
		if client.verify([]byte("other"), token) == nil {
			t.Error("a signature by chance")
		}
		if p, err := client.unwrap(token); err == nil && string(p) != "secret" {
			t.Error("sealed by chance")
		}
		if _, err := (&asked{session: key}).accepted(token); err == nil {
			t.Error("an answer by chance")
		}
	})
}

// TestHostileReply: no answer of a server's, or of a distribution centre's, is
// the broker's end.
func TestHostileReply(t *testing.T) {
	type encrypted struct {
		Kind   int    `asn1:"explicit,tag:0"`
		Cipher []byte `asn1:"explicit,tag:2"`
	}
	body, err := asn1.Marshal(struct {
		Version int       `asn1:"explicit,tag:0"`
		Type    int       `asn1:"explicit,tag:1"`
		Part    encrypted `asn1:"explicit,tag:2"`
	}{5, 15, encrypted{18, []byte{1}}})
	if err != nil {
		t.Fatal(err)
	}
	oid, err := asn1.Marshal(gssapi.OIDKRB5.OID())
	if err != nil {
		t.Fatal(err)
	}
	_, _, key := pair(t)
	token := asn1tools.AddASNAppTag(append(binary.BigEndian.AppendUint16(oid, tokenReply), asn1tools.AddASNAppTag(body, 15)...), 0)
	if _, err := (&asked{session: key}).accepted(token); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("a part that is shorter than its checksum: %v", err)
	}

	conf, err := config.NewFromString("[libdefaults]\ndefault_realm = A\n[realms]\nA = {\nkdc = centre\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	keys := keytab.New()
	if err := keys.AddEntry("nfs/client", "A", "secret", time.Unix(1, 0), 1, 18); err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]string{
		"size":    "\xff\xff\xff\xff",
		"empty":   "\x00\x00\x00\x00",
		"garbage": "\x00\x00\x00\x04\x6b\x82\xff\xff",
	} {
		tickets := FromKeytab("nfs/client", "A", keys, conf)
		dialled := false
		tickets.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
			dialled = true
			if network != "tcp" || addr != "centre:88" {
				t.Errorf("%s %s is dialled", network, addr)
			}
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				request := make([]byte, 4)
				if _, err := io.ReadFull(theirs, request); err == nil {
					_, err = io.CopyN(io.Discard, theirs, int64(binary.BigEndian.Uint32(request)))
					if err == nil {
						_, _ = io.WriteString(theirs, answer) // it may not be wanted
					}
				}
			}()
			return ours, nil
		}
		if _, _, err := tickets.Get(t.Context(), "nfs/server"); err == nil || !dialled {
			t.Errorf("%s: %v; dialled: %v", name, err, dialled)
		}
	}

	// One that does not answer can be left.
	ctx, cancel := context.WithCancel(t.Context())
	tickets := FromKeytab("nfs/client", "A", keys, conf)
	tickets.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Read(make([]byte, 4096)) // the pipe is closed at the end
			cancel()
		}()
		return ours, nil
	}
	if _, _, err := tickets.Get(ctx, "nfs/server"); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// TestRefusedOnce: calls by a context that the server has forgotten have it set
// up again once, not once each.
func TestRefusedOnce(t *testing.T) {
	why := &rpc.Error{Status: rpc.AuthError, Auth: rpc.GSSContextProblem}
	old := &established{seq: 7}
	now := &established{}
	now.follow(old)
	c := &Context{now: now, before: old, renewing: make(chan struct{}, 1)}
	for seq := uint32(1); seq <= 7; seq++ {
		if err := c.Refused(t.Context(), seq, why); err != nil {
			t.Errorf("call %d was by the context before: %v", seq, err)
		}
	}
	seq, err := now.next()
	if err != nil || seq != 8 {
		t.Fatalf("the next is %d, %v", seq, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.renewing <- struct{}{} // somebody is at it
	if err := c.Refused(ctx, seq, why); !errors.Is(err, context.Canceled) {
		t.Errorf("call %d is by the context that is refused: %v", seq, err)
	}
}
