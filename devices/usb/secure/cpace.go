// Package secure puts USB/IP between machines of ours into TLS: both sides have keys,
// and know each other's from a pairing by a short code.
package secure

import (
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"

	"github.com/gtank/ristretto255"
)

// CPace (draft-irtf-cfrg-cpace-21), the CFRG's password-authenticated key exchange,
// in its suite CPACE-RISTR255-SHA512, between an initiator and a responder. Who does not
// know the password has one guess for each run. No kept Go module has it; the group
// is a library's, and the tests are the draft's vectors.

const cpaceName = "CPaceRistretto255"

var errExchange = errors.New("the other side's half of the key exchange is not valid")

// exchange is one side's half of a run.
type exchange struct {
	sid    []byte
	scalar *ristretto255.Scalar
	share  []byte // for the other side
}

// newExchange begins a run. channel is what both sides say of themselves and each
// other, sid is new in each run.
func newExchange(password string, channel, sid []byte) *exchange {
	var b [64]byte
	_, _ = rand.Read(b[:]) // never fails
	return exchangeOf(password, channel, sid, ristretto255.NewScalar().FromUniformBytes(b[:]))
}

func exchangeOf(password string, channel, sid []byte, scalar *ristretto255.Scalar) *exchange {
	g := generator(password, channel, sid)
	return &exchange{sid, scalar, ristretto255.NewElement().ScalarMult(scalar, g).Encode(nil)}
}

func generator(password string, channel, sid []byte) *ristretto255.Element {
	// The password fills the hash's first block with its padding.
	padding := max(0, sha512.BlockSize-1-len(withLength(nil, []byte(password)))-len(withLength(nil, []byte(cpaceName))))
	sum := sha512.Sum512(concatenate([]byte(cpaceName), []byte(password), make([]byte, padding), channel, sid))
	return ristretto255.NewElement().FromUniformBytes(sum[:])
}

// key is the intermediate session key, from the other side's share. a and b are the
// shares of initiator and responder, each with what its side has said beside it.
func (e *exchange) key(theirs []byte, a, adA, b, adB []byte) ([]byte, error) {
	p := ristretto255.NewElement()
	if err := p.Decode(theirs); err != nil {
		return nil, errExchange
	}
	p.ScalarMult(e.scalar, p)
	if p.Equal(ristretto255.NewElement()) == 1 {
		return nil, errExchange
	}
	sum := sha512.Sum512(concatenate([]byte(cpaceName+"_ISK"), e.sid, p.Encode(nil), a, adA, b, adB))
	return sum[:], nil
}

// concatenate is the draft's lv_cat.
func concatenate(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = withLength(b, p)
	}
	return b
}

// withLength appends p behind its length in LEB128.
func withLength(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}
