package seccomptest

import (
	"bytes"
	"encoding/binary"
)

// I386 is a program for 32-bit x86 that makes one call (at most five
// arguments) and exits with 0 when it gave 0, else with its errno. strings
// are put into its memory; an argument that is one names it by &.
func I386(nr int, args ...any) []byte {
	const (
		base   = 0x10000
		header = 52 + 32
	)
	var code, tail bytes.Buffer
	le := binary.LittleEndian
	word := func(v uint32) { code.Write(le.AppendUint32(nil, v)) }
	// 5 bytes for each mov and what follows them.
	size := 5*(1+len(args)) + 2 + 2 + 2 + 5 + 2
	mov := []byte{0xbb, 0xb9, 0xba, 0xbe, 0xbf} // ebx ecx edx esi edi
	code.WriteByte(0xb8)                        // mov eax, nr
	word(uint32(nr))
	for i, a := range args {
		code.WriteByte(mov[i])
		switch a := a.(type) {
		case int:
			word(uint32(a))
		case string:
			word(uint32(base + header + size + tail.Len()))
			tail.WriteString(a + "\x00")
		}
	}
	code.Write([]byte{
		0xcd, 0x80, // int 0x80
		0xf7, 0xd8, // neg eax
		0x89, 0xc3, // mov ebx, eax
		0xb8, 1, 0, 0, 0, // mov eax, exit
		0xcd, 0x80,
	})
	code.Write(tail.Bytes())

	var f bytes.Buffer
	put := func(v ...any) {
		for _, x := range v {
			binary.Write(&f, le, x) // a bytes.Buffer takes everything
		}
	}
	total := uint32(header + code.Len())
	put([]byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		uint16(2), uint16(3), uint32(1), uint32(base+header), uint32(52), uint32(0), uint32(0), // ET_EXEC, EM_386
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(base), uint32(base), total, total, uint32(5), uint32(0x1000)) // PT_LOAD r-x
	f.Write(code.Bytes())
	return f.Bytes()
}
