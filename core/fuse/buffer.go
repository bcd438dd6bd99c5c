package fuse

import "sync"

// buffer is room for a reply: a header and, on a page boundary, its payload.
type buffer struct {
	b     []byte
	class int
}

// Classes of payload: what metadata needs, what buffered reads ask for in a
// user namespace, the most that a request carries.
var bufferClasses = [...]int{4 << 10, 128 << 10, maxTransfer}

var bufferPools [len(bufferClasses)]sync.Pool

// getBuffer gives a buffer for a payload of n bytes, n at most maxTransfer.
// Its content is arbitrary.
func getBuffer(n int) *buffer {
	for class, room := range bufferClasses {
		if n > room {
			continue
		}
		if b, ok := bufferPools[class].Get().(*buffer); ok {
			return b
		}
		return &buffer{b: alignedBuffer(room, outHeaderSize), class: class}
	}
	panic("fuse: payload beyond the largest request")
}

func (b *buffer) free() { bufferPools[b.class].Put(b) }

func (b *buffer) payload() []byte { return b.b[outHeaderSize:] }

func (b *buffer) reply(n int) []byte { return b.b[:outHeaderSize+n] }

// A read buffer holds what a reader takes from the kernel: the header and
// structure of a WRITE, and its data on a page boundary. The array pointer keeps
// the pool from allocating.
type readBuffer = [maxTransfer + inHeaderSize + writeInSize]byte

var readBuffers sync.Pool

func getReadBuffer() *readBuffer {
	if b, ok := readBuffers.Get().(*readBuffer); ok {
		return b
	}
	return (*readBuffer)(alignedBuffer(maxTransfer, inHeaderSize+writeInSize))
}

// smallRequest is the largest message that is moved out of its read buffer, so
// that a handler that waits keeps little memory.
const smallRequest = 1 << 10
