package gss

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/types"
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
