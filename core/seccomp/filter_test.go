package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets a filter over struct seccomp_data, of the instructions that
// Assemble uses; constant tells whether anything but number and arch was read
// (what the kernel's cache of constant answers asks).
func run(prog []unix.SockFilter, data []byte) (verdict uint32, constant bool, err error) {
	constant = true
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		i := prog[pc]
		cond := false
		switch i.Code {
		case unix.BPF_RET | unix.BPF_K:
			return i.K, constant, nil
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if i.K%4 != 0 || int(i.K)+4 > len(data) {
				return 0, false, fmt.Errorf("pc %d: load at %d", pc, i.K)
			}
			constant = constant && i.K <= offArch
			acc = binary.LittleEndian.Uint32(data[i.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			cond = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			cond = acc >= i.K
		default:
			return 0, false, fmt.Errorf("pc %d: instruction %#x", pc, i.Code)
		}
		if cond {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	return 0, false, fmt.Errorf("ran off the end")
}

func data(nr int32, audit uint32, args [6]uint64) []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, uint32(nr))
	binary.LittleEndian.PutUint32(b[4:], audit)
	for i, a := range args {
		binary.LittleEndian.PutUint64(b[offArgs+8*i:], a)
	}
	return b
}

const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// verdict is what the table says of a call, by a plain reading of it.
func verdict(kernel Arch, o Options, nr int32, audit uint32, args [6]uint64) uint32 {
	a, ok := archOf(audit)
	if compat, _ := kernel.compat(); !ok || a != kernel && a != compat {
		return enosys
	}
	if a == AMD64 && uint32(nr) >= x32Bit {
		if nr == -1 {
			return unix.SECCOMP_RET_ALLOW
		}
		return enosys
	}
	for i := range table {
		r := &table[i]
		for _, id16 := range []bool{false, true} {
			n := r.NR
			if id16 {
				n = r.NR16
			}
			if n[a] < 0 || int32(n[a]) != nr || !o.catches(r) || !r.Catches(args, id16) {
				continue
			}
			if r.Action == NoSys {
				return enosys
			}
			return unix.SECCOMP_RET_USER_NOTIF
		}
	}
	return unix.SECCOMP_RET_ALLOW
}

var allOptions = []Options{
	{},
	{AllowIOUring: true},
	{Features: []string{FeatureMount}},
	{Features: []string{FeatureIDs}},
	{Features: []string{FeatureMount, FeatureIDs}},
	{Features: []string{FeatureMount, FeatureIDs, FeaturePorts}},
}

// interesting are argument values near what the table compares.
var interesting = []uint64{0, 1, SocketcallBind, SocketcallListen, 12, 16, 0xffff, 0x10000, 0xffffffff, 0xffffffffffffffff, 1 << 32, 1000,
	unix.MS_REMOUNT, unix.MS_BIND, unix.MS_MOVE, unix.MS_SHARED, unix.MS_PRIVATE, unix.MS_SLAVE, unix.MS_UNBINDABLE,
	unix.MS_REMOUNT | unix.MS_BIND, unix.MS_REMOUNT | unix.MS_SHARED, unix.MS_MGC_VAL, unix.MS_MGC_VAL | unix.MS_BIND,
	unix.MS_MGC_VAL | unix.MS_REMOUNT, unix.MNT_DETACH | unix.MNT_FORCE,
	unix.S_IFBLK | 0o600, unix.S_IFCHR | 0o600, unix.S_IFREG | 0o600, unix.S_IFIFO, unix.S_IFDIR}

func TestAssemble(t *testing.T) {
	for _, kernel := range []Arch{AMD64, ARM64} {
		for _, o := range allOptions {
			prog, err := Assemble(kernel, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %+v: %d instructions", kernel, o, len(prog))
			check := func(nr int32, audit uint32, args [6]uint64) {
				t.Helper()
				got, constant, err := run(prog, data(nr, audit, args))
				if want := verdict(kernel, o, nr, audit, args); err != nil || got != want {
					t.Errorf("%s %+v: call %d of %#x (%#x) gives %#x, %v; want %#x", kernel, o, nr, audit, args, got, err, want)
				}
				if a, ok := archOf(audit); ok && byNumber[a][nr].row == nil && !constant {
					t.Errorf("%s %+v: call %d of %s reads arguments though no row has it", kernel, o, nr, a)
				}
			}
			for _, audit := range append(audits[:], unix.AUDIT_ARCH_RISCV64, 0, 0xffffffff) {
				for nr := int32(0); nr < 500; nr++ {
					check(nr, audit, [6]uint64{})
				}
				for _, nr := range []int32{-1, -2, -38, x32Bit, x32Bit + 165, 0x7fffffff} {
					check(nr, audit, [6]uint64{})
				}
				a, ok := archOf(audit)
				if !ok {
					continue
				}
				for nr, e := range byNumber[a] {
					var used [6]bool
					for _, all := range e.row.When {
						for _, test := range all {
							used[test.Arg] = true
						}
					}
					combine(used, 0, [6]uint64{}, func(args [6]uint64) { check(nr, audit, args) })
				}
			}
		}
	}
}

// combine calls f with every combination of interesting values in the used arguments.
func combine(used [6]bool, i int, args [6]uint64, f func([6]uint64)) {
	if i == len(args) {
		f(args)
		return
	}
	if !used[i] {
		combine(used, i+1, args, f)
		return
	}
	for _, v := range interesting {
		args[i] = v
		combine(used, i+1, args, f)
	}
}

func TestAssembleRefuses(t *testing.T) {
	if _, err := Assemble(I386, Options{}); err == nil {
		t.Error("a filter for a 32-bit kernel")
	}
	if _, err := Assemble(AMD64, Options{Features: []string{"mounts"}}); err == nil {
		t.Error("an unknown feature was accepted")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(int32(165), uint8(0), uint64(0), uint64(0), uint64(0), uint64(0), uint8(4))
	f.Add(int32(182), uint8(1), uint64(0xffff), uint64(7), uint64(1), uint64(2), uint8(3))
	progs := map[Arch][][]unix.SockFilter{}
	for _, kernel := range []Arch{AMD64, ARM64} {
		for _, o := range allOptions {
			prog, err := Assemble(kernel, o)
			if err != nil {
				f.Fatal(err)
			}
			progs[kernel] = append(progs[kernel], prog)
		}
	}
	f.Fuzz(func(t *testing.T, nr int32, arch uint8, a, b, c, d uint64, opt uint8) {
		i := int(opt) % len(allOptions)
		audit := audits[arch%uint8(numArch)]
		args := [6]uint64{a, b, c, d}
		for kernel, p := range progs {
			got, _, err := run(p[i], data(nr, audit, args))
			if want := verdict(kernel, allOptions[i], nr, audit, args); err != nil || got != want {
				t.Errorf("%s: call %d of %#x (%#x): %#x, %v; want %#x", kernel, nr, audit, args, got, err, want)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(make([]byte, notifSize))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decode(b)
		if (err == nil) != (len(b) >= notifSize) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if a, ok := archOf(n.arch); ok {
			args := n.args
			if e, ok := byNumber[a][n.nr]; ok {
				e.widen(&args)
				e.row.Catches(args, false)
			}
		}
	})
}
