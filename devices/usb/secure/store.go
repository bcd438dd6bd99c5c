package secure

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Fingerprint is a machine's public key.
type Fingerprint [sha256.Size]byte

// String is its hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

func fingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Store is this user's key, and the peers that were paired with.
type Store struct {
	dir         string
	certificate tls.Certificate
	own         Fingerprint
}

const (
	keyFile   = "key.pem"
	peersFile = "peers"
	lockFile  = "lock"
)

// lock keeps the user's other processes from changing the directory's files.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the keys: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock the keys: %w", err), f.Close())
	}
	return func() { f.Close() }, nil
}

// OpenStore reads the key from a directory that is the user's alone, and makes both
// where they are missing.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep keys: %w", err)
	}
	key, err := readKey(filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(dir)
	}
	if err != nil {
		return nil, err
	}
	// The certificate is only the key's envelope: nobody checks its dates or names.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	return &Store{dir: dir, own: fingerprintOf(leaf), certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}, nil
}

func readKey(name string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read this machine's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("cannot read this machine's key: %s is damaged; without it a new one is made, and peers must pair again", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read this machine's key: %s: %w", name, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot read this machine's key: %s is of another kind, %T", name, parsed)
	}
	return key, nil
}

// makeKey makes the key, unless another process has made it meanwhile.
func makeKey(dir string) (ed25519.PrivateKey, error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	name := filepath.Join(dir, keyFile)
	if key, err := readKey(name); !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	if err := replaceFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, fmt.Errorf("cannot keep a key: %w", err)
	}
	return key, nil
}

// replaceFile writes a file of the user's alone, whole or not at all.
func replaceFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it has been renamed, or is of no use
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Own is this side's fingerprint.
func (s *Store) Own() Fingerprint { return s.own }

// Peer is another machine that was paired with.
type Peer struct {
	Fingerprint Fingerprint
	Name        string // as this side calls it
}

// clientMark is in the names of clients, and in no host's.
const clientMark = "#"

// IsClient says whether the peer came to pair with an export of ours, so that it may
// have what we give. The others are exporters that we went to: they get nothing.
func (p Peer) IsClient() bool { return strings.Contains(p.Name, clientMark) }

// Peers are those that are trusted.
func (s *Store) Peers() ([]Peer, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, peersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the peers: %w", err)
	}
	var list []Peer
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		digits, name, _ := strings.Cut(lines.Text(), " ")
		raw, err := hex.DecodeString(digits)
		if err != nil || len(raw) != sha256.Size || name == "" {
			return nil, fmt.Errorf("cannot read the peers: %q in %s is no line of fingerprint and name", lines.Text(), peersFile)
		}
		list = append(list, Peer{Fingerprint(raw), name})
	}
	return list, lines.Err()
}

// trusts tells whether a peer was paired with: as an exporter of that name or, where
// name is empty, as a client.
func (s *Store) trusts(f Fingerprint, name string) (bool, error) {
	list, err := s.Peers()
	for _, p := range list {
		if p.Fingerprint == f && (p.Name == name || name == "" && p.IsClient()) {
			return true, nil
		}
	}
	return false, err
}

// Trust keeps a peer. Another of that name is replaced: the machine has a new key.
func (s *Store) Trust(f Fingerprint, name string) error {
	return s.change(name, &Peer{f, name})
}

// Forget ends the trust in all peers of that name.
func (s *Store) Forget(name string) error { return s.change(name, nil) }

func (s *Store) change(name string, add *Peer) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q is no name of a peer: expected a host's", name)
	}
	unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	list, err := s.Peers()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	found := false
	for _, p := range list {
		if p.Name == name {
			found = true
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", p.Fingerprint, p.Name)
	}
	switch {
	case add != nil:
		fmt.Fprintf(&b, "%s %s\n", add.Fingerprint, add.Name)
	case !found:
		return fmt.Errorf("there is no peer %q", name)
	}
	if err := replaceFile(filepath.Join(s.dir, peersFile), b.Bytes()); err != nil {
		return fmt.Errorf("cannot keep the peers: %w", err)
	}
	return nil
}
