package smb

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxbridge/lx/mount/volume"
)

// wire is the TCP connection below the transport. It puts each message's
// length and body into one segment, and learns what the transport hides: the
// dialect, the status of a refused login, and when the server was last heard.
type wire struct {
	net.Conn
	seal   bool        // refuse to send clear text once established
	failed func(error) // told of the first error; may be called more than once

	// Owned by the one sender: the length of the message whose body comes next.
	length  [4]byte
	pending bool // length is not sent yet
	frame   net.Buffers

	heard       atomic.Int64 // time of the last bytes, nanoseconds
	dialect     atomic.Uint32
	refusal     atomic.Uint32 // last status of an error response
	established atomic.Bool   // logged in and attached
}

// errClearText ends a link that seal forbids to use.
var errClearText = &volume.Error{Op: "mount with", Name: "seal", Errno: syscall.EOPNOTSUPP,
	Reason: "the server does not ask for encryption, which this transport needs (smb encrypt = required)"}

// encryptedMagic opens a transform header (MS-SMB2 2.2.41), plainMagic a header (2.2.1).
var (
	encryptedMagic = [4]byte{0xFD, 'S', 'M', 'B'}
	plainMagic     = [4]byte{0xFE, 'S', 'M', 'B'}
)

// Write takes a length or a body, as the transport sends them.
func (w *wire) Write(p []byte) (int, error) {
	if !w.pending && len(p) == len(w.length) {
		w.pending = true
		return copy(w.length[:], p), nil
	}
	if w.seal && w.established.Load() && (len(p) < 4 || [4]byte(p) != encryptedMagic) {
		w.failed(errClearText)
		return 0, errClearText
	}
	w.frame = append(w.frame[:0], w.length[:], p)
	w.pending = false
	frame := w.frame
	n, err := frame.WriteTo(w.Conn)
	if err != nil {
		w.failed(err)
		return max(0, int(n)-4), err
	}
	return len(p), nil
}

// Read notes the beginning of each message.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.heard.Store(int64(time.Since(epoch)))
		if !w.established.Load() {
			w.note(p[:n])
		}
	}
	if err != nil {
		w.failed(err)
	}
	return n, err
}

// epoch makes times monotonic.
var epoch = time.Now()

// silence is how long the server has not been heard.
func (w *wire) silence() time.Duration {
	return time.Since(epoch) - time.Duration(w.heard.Load())
}

// note reads the header of a response to the login; a header in pieces is not
// recognised, which loses a reason, not a check.
func (w *wire) note(p []byte) {
	const command, negotiate, headerSize = 12, 0, 64
	if len(p) < headerSize+6 || [4]byte(p) != plainMagic {
		return
	}
	if s := binary.LittleEndian.Uint32(p[8:]); s != 0 && status(s) != statusMoreProcessing {
		w.refusal.Store(s)
		return
	}
	if binary.LittleEndian.Uint16(p[command:]) == negotiate {
		w.dialect.Store(uint32(binary.LittleEndian.Uint16(p[headerSize+4:])))
	}
}
