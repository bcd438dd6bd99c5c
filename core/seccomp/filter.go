package seccomp

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Options choose what the filter of an environment catches. It is fixed when
// the environment starts: a listener cannot be widened later.
type Options struct {
	Features     []string // FeatureMount, FeatureIDs
	AllowIOUring bool
}

// catches says whether the filter has the row.
func (o Options) catches(r *Row) bool {
	switch r.Feature {
	case FeatureIOUring:
		return !o.AllowIOUring
	case FeatureX32: // no numbers of its own
		return false
	}
	return slices.Contains(o.Features, r.Feature)
}

// Offsets in struct seccomp_data (linux/seccomp.h). Arguments are 64 bits
// wide; both kernels are little-endian, so the low half comes first.
const (
	offNR   = 0
	offArch = 4
	offArgs = 16
)

const (
	x32Bit  = 0x40000000 // __X32_SYSCALL_BIT
	skipped = 0xffffffff // the number a tracer sets to skip a call
)

// code is a piece of a program that always ends in a return, so that pieces
// are joined by putting one behind another.
type code []unix.SockFilter

var (
	allow  = code{ret(unix.SECCOMP_RET_ALLOW)}
	notify = code{ret(unix.SECCOMP_RET_USER_NOTIF)}
	noSys  = code{ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))}
)

func ret(v uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
}

func load(off uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
}

// branch compares the accumulator (BPF_JEQ, BPF_JGE) with k and goes on in
// yes or no. A jump reaches 255 instructions, an unconditional one any.
func branch(op uint16, k uint32, yes, no code) code {
	head := code{{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jf: uint8(len(yes))}}
	if len(yes) > 255 {
		head[0].Jt, head[0].Jf = 1, 0
		head = append(head, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(yes))})
	}
	return slices.Concat(head, yes, no)
}

// Assemble makes the filter for a kernel of the given arch (AMD64 or ARM64)
// and the 32-bit ABI it also runs.
//
// What no table knows, it refuses with ENOSYS: x32, and an arch that neither
// is native nor its 32-bit companion. A program of such an ABI could call
// unseen; refused, it sees a kernel built without that ABI. 32-bit ARM is
// trapped like the others, its numbers being i386's but for a few.
//
// Calls that are not trapped return through a constant path (number and arch
// alone), which the kernel learns at installation and then answers from a
// bitmap without running the program (seccomp_cache_prepare, 5.11).
func Assemble(arch Arch, o Options) ([]unix.SockFilter, error) {
	compat, ok := arch.compat()
	if !ok {
		return nil, fmt.Errorf("cannot assemble a filter for a kernel of %s: expected amd64 or arm64", arch)
	}
	if err := checkFeatures(o.Features); err != nil {
		return nil, err
	}
	native := o.search(arch)
	if arch == AMD64 {
		native = branch(unix.BPF_JGE, x32Bit, branch(unix.BPF_JEQ, skipped, allow, noSys), native)
	}
	withNR := func(c code) code { return slices.Concat(code{load(offNR)}, c) }
	program := slices.Concat(code{load(offArch)},
		branch(unix.BPF_JEQ, arch.Audit(), withNR(native),
			branch(unix.BPF_JEQ, compat.Audit(), withNR(o.search(compat)), noSys)))
	const maxInsns = 4096 // BPF_MAXINSNS
	if len(program) > maxInsns {
		return nil, fmt.Errorf("the filter has %d instructions, the kernel takes %d", len(program), maxInsns)
	}
	return program, nil
}

// search is the code that finds the row of the number in the accumulator.
func (o Options) search(arch Arch) code {
	var numbers []int32
	for nr, e := range byNumber[arch] {
		if o.catches(e.row) {
			numbers = append(numbers, nr)
		}
	}
	slices.Sort(numbers)
	return tree(arch, numbers)
}

// tree is a balanced binary search over sorted numbers.
func tree(arch Arch, numbers []int32) code {
	switch n := len(numbers); n {
	case 0:
		return allow
	case 1:
		return branch(unix.BPF_JEQ, uint32(numbers[0]), byNumber[arch][numbers[0]].code(), allow)
	default:
		return branch(unix.BPF_JGE, uint32(numbers[n/2]), tree(arch, numbers[n/2:]), tree(arch, numbers[:n/2]))
	}
}

// code is what happens once the number has been found.
func (e entry) code() code {
	caught := notify
	if e.row.Action == NoSys {
		caught = noSys
	}
	if len(e.row.When) == 0 {
		return caught
	}
	c := allow
	for _, all := range slices.Backward(e.row.When) {
		c = conjunction(e.row.tests(all, e.id16), caught, c)
	}
	return c
}

// conjunction goes on in yes when all tests hold, else in no.
func conjunction(tests []Test, yes, no code) code {
	for _, t := range slices.Backward(tests) {
		get := code{load(offArgs + 8*uint32(t.Arg))}
		if t.Mask != ^uint32(0) {
			get = append(get, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: t.Mask})
		}
		if t.Not {
			yes = slices.Concat(get, branch(unix.BPF_JEQ, t.Val, no, yes))
		} else {
			yes = slices.Concat(get, branch(unix.BPF_JEQ, t.Val, yes, no))
		}
	}
	return yes
}
