package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gtank/ristretto255"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/emul"
	"github.com/lxbridge/lx/devices/usb/usbip"
	"github.com/lxbridge/lx/devices/usb/usbtest"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors are those of draft-irtf-cfrg-cpace-21, B.3.
func TestVectors(t *testing.T) {
	channel, sid := []byte("oc\x0bB_responder\x0bA_initiator"), unhex(t, "7e4b4791d6a8ef019b936c79fb7f2c57")
	if g := generator("Password", channel, sid).Encode(nil); !bytes.Equal(g, unhex(t, "a6fc82c3b8968fbb2e06fee81ca858586dea50d248f0c7ca6a18b090 2a30b36b")) {
		t.Errorf("the generator is %x", g)
	}
	side := func(scalar, share string) *exchange {
		s := ristretto255.NewScalar()
		if err := s.Decode(unhex(t, scalar)); err != nil {
			t.Fatal(err)
		}
		e := exchangeOf("Password", channel, sid, s)
		if !bytes.Equal(e.share, unhex(t, share)) {
			t.Errorf("a share is %x", e.share)
		}
		return e
	}
	a := side("da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4f f0976d08", "d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c66 9308f87a")
	b := side("d2316b454718c35362d83d69df6320f38578ed5984651435e2949762 d900b80d", "08bcf6e9777a9c313a3db6daa510f2d398403319c2341bd506a92e67 2eb7e307")
	want := unhex(t, "4c5469a16b2364c4b944ebc1a79e51d1674ad47db26e8718154f59fa ebfaa52d8346f30aa58377117eb20d527f2cbc5c76381f7fd372e89d f8239f87f2e02ed1")
	for _, e := range []*exchange{a, b} {
		theirs := b.share
		if e == b {
			theirs = a.share
		}
		key, err := e.key(theirs, a.share, []byte("ADa"), b.share, []byte("ADb"))
		if err != nil || !bytes.Equal(key, want) {
			t.Errorf("the key is %x, %v", key, err)
		}
	}
	for _, bad := range []string{strings.Repeat("00", 32), "2b3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d6 54b4a51c", "00"} {
		if _, err := a.key(unhex(t, bad), a.share, nil, unhex(t, bad), nil); err == nil {
			t.Errorf("%s is taken for a share", bad)
		}
	}
}

// exporter is a server with the gadget behind a door.
type exporter struct {
	*testing.T
	door *Door
	port string
	dev  *emul.Device
	one  sync.Mutex
}

func (e *exporter) List(net.Addr) []usbip.DeviceInfo { return nil }

func (e *exporter) Open(context.Context, net.Addr, string) (usbip.DeviceInfo, usb.Device, error) {
	e.one.Lock()
	return usbip.DeviceInfo{Path: usbip.PathPrefix + "1-1", BusID: "1-1", Bus: 1, Number: 2, Speed: uint32(usb.SpeedHigh)}, lease{e.dev, e}, nil
}

type lease struct {
	usb.Device
	e *exporter
}

func (l lease) Close() error {
	defer l.e.one.Unlock()
	_ = l.SetConfiguration(context.Background(), 0) // it may be gone
	return nil
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func export(t *testing.T, dev *emul.Device) *exporter {
	t.Helper()
	offer, err := NewOffer()
	if err != nil {
		t.Fatal(err)
	}
	e := &exporter{T: t, door: &Door{Store: newStore(t), Offer: offer}, dev: dev}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, e.port, _ = net.SplitHostPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&usbip.Server{Exports: e, Log: slog.New(slog.DiscardHandler), Welcome: e.door.Welcome}).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

func gadget(t *testing.T) *emul.Device {
	t.Helper()
	d, err := emul.New(usbtest.Gadget())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestContract runs the suite of devices over TLS.
func TestContract(t *testing.T) {
	usbtest.Run(t, func(t *testing.T, end *emul.Device) usb.Device {
		e, client := export(t, end), newStore(t)
		if _, err := client.Pair(t.Context(), "127.0.0.1", e.port, e.door.Offer.Code()); err != nil {
			t.Fatal(err)
		}
		d, err := usbip.Attach(t.Context(), client.Dial("127.0.0.1", e.port), "1-1", usbip.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func TestPairing(t *testing.T) {
	e, client := export(t, gadget(t)), newStore(t)
	list := func(s *Store) error {
		_, err := usbip.List(t.Context(), s.Dial("127.0.0.1", e.port))
		return err
	}
	if list(client) == nil {
		t.Error("a stranger is let in")
	}
	code := e.door.Offer.Code()
	wrong := "1" + code[1:]
	if code[0] == '1' {
		wrong = "2" + code[1:]
	}
	if _, err := client.Pair(t.Context(), "127.0.0.1", e.port, wrong); !errors.Is(err, ErrCode) {
		t.Errorf("a wrong code: %v", err)
	}
	f, err := client.Pair(t.Context(), "127.0.0.1", e.port, strings.ReplaceAll(code, "-", " "))
	if err != nil || f != e.door.Store.Own() {
		t.Fatalf("the right code: %v", err)
	}
	if err := list(client); err != nil {
		t.Errorf("after pairing: %v", err)
	}
	other := newStore(t)
	if _, err := other.Pair(t.Context(), "127.0.0.1", e.port, code); err == nil {
		t.Error("a code is good twice")
	}
	if list(other) == nil {
		t.Error("a stranger is let in")
	}
	// That an exporter is known to us gives it nothing of ours.
	if err := errors.Join(e.door.Store.Trust(other.Own(), "lab"), other.Trust(f, "127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if list(other) == nil {
		t.Error("an exporter is let in as a client")
	}
	if err := e.door.Store.Forget("lab"); err != nil {
		t.Fatal(err)
	}
	// Another exporter at that address is not taken for this one.
	if err := client.Trust(other.Own(), "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if err := list(client); !errors.Is(err, ErrNotPaired) {
		t.Errorf("an exporter with another key: %v", err)
	}
	// Whom the exporter forgets is a stranger again.
	if err := client.Trust(f, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	peers, err := e.door.Store.Peers()
	if err != nil || len(peers) != 1 || peers[0].Fingerprint != client.Own() {
		t.Fatalf("the exporter trusts %v, %v", peers, err)
	}
	if err := e.door.Store.Forget(peers[0].Name); err != nil {
		t.Fatal(err)
	}
	if list(client) == nil {
		t.Error("who is forgotten is let in")
	}
}

func TestGuesses(t *testing.T) {
	e, client := export(t, gadget(t)), newStore(t)
	code := e.door.Offer.Code()
	wrong := strings.Map(func(r rune) rune {
		if r == '-' {
			return r
		}
		return '0' + (r-'0'+1)%10
	}, code)
	for range offerTries {
		if _, err := client.Pair(t.Context(), "127.0.0.1", e.port, wrong); err == nil {
			t.Fatal("a wrong code is right")
		}
	}
	if _, err := client.Pair(t.Context(), "127.0.0.1", e.port, code); err == nil {
		t.Errorf("after %d guesses the code is still good", offerTries)
	}
}

func TestOfferEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := NewOffer()
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Code()) != codeDigits+1 {
			t.Errorf("the code is %q", o.Code())
		}
		time.Sleep(offerTime - time.Second)
		if code, err := o.take(); err != nil || len(code) != codeDigits {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := o.take(); err == nil {
			t.Error("the offer does not end")
		}
	})
}

// TestInBetween: who relays a pairing with keys of his own learns nothing and gets
// nowhere, though both sides use the right code.
func TestInBetween(t *testing.T) {
	e, client, mallory := export(t, gadget(t)), newStore(t), newStore(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		near := tls.Server(raw, mallory.config(protocolPair))
		far, err := handshake(t.Context(), usbip.TCP("127.0.0.1:"+e.port), mallory.config(protocolPair))
		if err != nil {
			t.Error(err)
			return
		}
		go func() { io.Copy(far, near); far.Close() }()
		io.Copy(near, far)
		near.Close()
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if _, err := client.Pair(t.Context(), "127.0.0.1", port, e.door.Offer.Code()); !errors.Is(err, ErrCode) {
		t.Errorf("with somebody in between: %v", err)
	}
	<-done
	for name, s := range map[string]*Store{"client": client, "exporter": e.door.Store} {
		if peers, err := s.Peers(); err != nil || len(peers) != 0 {
			t.Errorf("the %s trusts %v, %v", name, peers, err)
		}
	}
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	a, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenStore(dir)
	if err != nil || a.Own() != b.Own() {
		t.Errorf("the key does not stay: %v", err)
	}
	if err := a.Trust(b.Own(), "lab"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a b", "a\nb"} {
		if a.Trust(b.Own(), bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	if a.Forget("nobody") == nil {
		t.Error("a peer that is not there is forgotten")
	}
	for name, mode := range map[string]os.FileMode{".": 0o700 | os.ModeDir, keyFile: 0o600, peersFile: 0o600} {
		if i, err := os.Stat(filepath.Join(dir, name)); err != nil || i.Mode() != mode {
			t.Errorf("%s has mode %v, %v", name, i.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, peersFile), []byte("damaged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := a.trusts(b.Own(), "lab"); ok || err == nil {
		t.Error("a damaged file of peers is trusted")
	}
}

// TestManyProcesses: who opens the keys at the same time has the same one, and no peer
// gets lost.
func TestManyProcesses(t *testing.T) {
	const n = 20
	dir := t.TempDir()
	stores := make([]*Store, n)
	var group sync.WaitGroup
	for i := range stores {
		group.Go(func() {
			s, err := OpenStore(dir)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Trust(Fingerprint{byte(i)}, fmt.Sprint("host", i)); err != nil {
				t.Error(err)
			}
			stores[i] = s
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for _, s := range stores {
		if s.Own() != stores[0].Own() {
			t.Error("two have different keys")
		}
	}
	if peers, err := stores[0].Peers(); err != nil || len(peers) != n {
		t.Errorf("%d peers are left of %d, %v", len(peers), n, err)
	}
}
