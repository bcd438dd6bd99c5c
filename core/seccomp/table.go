package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Features group the rows that are trapped together.
const (
	FeatureMount   = "mount"    // file systems that the broker serves
	FeatureIDs     = "ids"      // environments that map a single id
	FeaturePorts   = "ports"    // binds that are done, and told of, by the broker
	FeatureIOUring = "io_uring" // refused unless Options.AllowIOUring
	FeatureX32     = "x32"      // refused always
)

// Action is what becomes of a call that a row catches.
type Action int

const (
	Notify Action = iota // the listener answers
	NoSys                // ENOSYS, in the kernel
)

func (a Action) String() string { return [...]string{"trap", "ENOSYS"}[a] }

// Numbers are a call's numbers by Arch; -1 where it has none.
type Numbers [numArch]int

var absent = Numbers{-1, -1, -1, -1}

// MarshalJSON writes {"amd64": 165, …} without the absent.
func (n Numbers) MarshalJSON() ([]byte, error) {
	m := map[string]int{}
	for a, nr := range n {
		if nr >= 0 {
			m[Arch(a).String()] = nr
		}
	}
	return json.Marshal(m)
}

// Test holds when the low 32 bits of argument Arg have (arg & Mask) == Val;
// Not reverses it. Every argument that the table tests is one of which the
// kernel itself uses no more than these bits.
type Test struct {
	Arg       int
	Mask, Val uint32
	Not       bool
}

// Row is one call of the table. Handlers find it by Name.
type Row struct {
	Name    string
	NR      Numbers
	NR16    Numbers // the call's older form with 16-bit ids, seen by handlers as the newer
	Feature string
	Action  Action
	When    [][]Test // trapped when all tests of any list hold; empty: always
	IDs     []int    // arguments that are user or group ids
	Only    string   // When in words
	Does    string   // what becomes of the call
	Why     string   // the reason to trap it
}

// Bits of mount(2) and umount2(2).
const (
	propagation = unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE
	notNew      = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_MOVE
)

const (
	whyMount  = "the kernel lets no user namespace mount network file systems"
	whyOwner  = "the superblock belongs to the broker's user namespace, so the kernel says EPERM"
	whyIDs    = "only root is mapped: the kernel says EINVAL or EPERM, and installers give up"
	onlyIDs   = "an id other than 0 and -1"
	whyPorts  = "the kernel tells of a port that is taken, not by whom"
	doesPorts = "INET and INET6: done on the caller's behalf and remembered; others continue"
	doesIDs   = "ids that are not mapped are left out, the rest is done"
)

// Calls of socketcall(2) (linux/net.h).
const (
	SocketcallBind   = 2
	SocketcallListen = 4
)

// table is ordered as it is printed. Numbers: asm/unistd.h of each arch;
// io_uring_setup and fsopen stand at the same number everywhere.
var table = []Row{
	{Name: "mount", NR: Numbers{165, 21, 40, 21}, NR16: absent, Feature: FeatureMount,
		When: [][]Test{
			// The order of the kernel's path_mount(): a bind mount's remount is the kernel's own business.
			{{Arg: 3, Mask: unix.MS_REMOUNT | unix.MS_BIND, Val: unix.MS_REMOUNT}},
			{{Arg: 3, Mask: notNew | propagation, Val: 0}},
			// MS_MGC_VAL covers the propagation bits and is taken off.
			{{Arg: 3, Mask: unix.MS_MGC_MSK, Val: unix.MS_MGC_VAL}, {Arg: 3, Mask: notNew, Val: 0}},
		},
		Only: "new mounts and remounts, not MS_BIND, MS_MOVE or propagation",
		Does: "network types are served by the broker, others continue", Why: whyMount},
	{Name: "umount2", NR: Numbers{166, 52, 39, 52}, NR16: absent, Feature: FeatureMount,
		When: [][]Test{{{Arg: 1, Mask: unix.MNT_FORCE, Val: unix.MNT_FORCE}}},
		Only: "MNT_FORCE", Does: "the broker ends what waits on its mount, then unmounts", Why: whyOwner},
	{Name: "fsopen", NR: Numbers{430, 430, 430, 430}, NR16: absent, Feature: FeatureMount,
		Does: "network types get a context of the broker's, others continue", Why: whyMount},
	{Name: "fsconfig", NR: Numbers{431, 431, 431, 431}, NR16: absent, Feature: FeatureMount,
		Does: "options of the broker's contexts are collected, others continue", Why: whyMount},
	{Name: "fspick", NR: Numbers{433, 433, 433, 433}, NR16: absent, Feature: FeatureMount,
		Does: "remounts of the broker's mounts get a context, others continue", Why: whyOwner},

	ids("chown", Numbers{92, 212, -1, 212}, Numbers{-1, 182, -1, 182}, 1, 2),
	ids("lchown", Numbers{94, 198, -1, 198}, Numbers{-1, 16, -1, 16}, 1, 2),
	ids("fchown", Numbers{93, 207, 55, 207}, Numbers{-1, 95, -1, 95}, 1, 2),
	ids("fchownat", Numbers{260, 298, 54, 325}, absent, 2, 3),
	ids("setuid", Numbers{105, 213, 146, 213}, Numbers{-1, 23, -1, 23}, 0),
	ids("setgid", Numbers{106, 214, 144, 214}, Numbers{-1, 46, -1, 46}, 0),
	ids("setreuid", Numbers{113, 203, 145, 203}, Numbers{-1, 70, -1, 70}, 0, 1),
	ids("setregid", Numbers{114, 204, 143, 204}, Numbers{-1, 71, -1, 71}, 0, 1),
	ids("setresuid", Numbers{117, 208, 147, 208}, Numbers{-1, 164, -1, 164}, 0, 1, 2),
	ids("setresgid", Numbers{119, 210, 149, 210}, Numbers{-1, 170, -1, 170}, 0, 1, 2),
	// setfsuid and setfsgid have no error to spare a caller.
	{Name: "setgroups", NR: Numbers{116, 206, 159, 206}, NR16: Numbers{-1, 81, -1, 81}, Feature: FeatureIDs,
		Does: "answers 0; the groups stay", Why: "a single-id map denies setgroups: dialout and plugdev are kept"},
	node("mknod", Numbers{133, 14, -1, 14}, 1),
	node("mknodat", Numbers{259, 297, 33, 324}, 2),

	{Name: "bind", NR: Numbers{49, 361, 200, 282}, NR16: absent, Feature: FeaturePorts,
		// Each getaddrinfo(3) of glibc binds a netlink socket.
		When: [][]Test{{{Arg: 2, Mask: ^uint32(unix.SizeofSockaddrInet4 - 1), Val: 0, Not: true}}},
		Only: "addresses as long as INET's, so not netlink's", Does: doesPorts, Why: whyPorts},
	{Name: "listen", NR: Numbers{50, 363, 201, 284}, NR16: absent, Feature: FeaturePorts, Does: doesPorts, Why: whyPorts},
	{Name: "socketcall", NR: Numbers{-1, 102, -1, -1}, NR16: absent, Feature: FeaturePorts,
		When: [][]Test{{{Arg: 0, Mask: ^uint32(0), Val: SocketcallBind}}, {{Arg: 0, Mask: ^uint32(0), Val: SocketcallListen}}},
		Only: "SYS_BIND and SYS_LISTEN", Does: doesPorts, Why: whyPorts},

	{Name: "io_uring_setup", NR: Numbers{425, 425, 425, 425}, NR16: absent, Feature: FeatureIOUring, Action: NoSys,
		Does: "programs fall back on ordinary calls; --io-uring allows it", Why: "what a ring does passes no filter"},
	{Name: "x32", NR: absent, NR16: absent, Feature: FeatureX32, Action: NoSys,
		Only: "every call of the x32 ABI of amd64", Does: "as a kernel without it",
		Why: "a second set of numbers for the same calls, which hardly any program uses"},
}

// ids is a row for a call whose args are ids. 0 is mapped, -1 means "leave":
// such calls are the kernel's.
func ids(name string, nr, nr16 Numbers, args ...int) Row {
	r := Row{Name: name, NR: nr, NR16: nr16, Feature: FeatureIDs, IDs: args, Only: onlyIDs, Does: doesIDs, Why: whyIDs}
	for _, a := range args {
		r.When = append(r.When, []Test{
			{Arg: a, Mask: ^uint32(0), Val: 0, Not: true},
			{Arg: a, Mask: ^uint32(0), Val: ^uint32(0), Not: true},
		})
	}
	return r
}

// node is a row for making device nodes; the device number follows the mode.
func node(name string, nr Numbers, mode int) Row {
	return Row{Name: name, NR: nr, NR16: absent, Feature: FeatureIDs,
		When: [][]Test{
			{{Arg: mode, Mask: unix.S_IFMT, Val: unix.S_IFBLK}},
			// Character device 0/0 is overlayfs's whiteout, which anybody may make.
			{{Arg: mode, Mask: unix.S_IFMT, Val: unix.S_IFCHR}, {Arg: mode + 1, Mask: ^uint32(0), Val: 0, Not: true}},
		},
		Only: "device nodes", Does: "makes an empty file in its place", Why: "the kernel makes device nodes for the real root alone"}
}

// Table is the whole table, in the order in which it is printed.
func Table() []Row { return slices.Clone(table) }

// Lookup finds a row by name.
func Lookup(name string) (*Row, bool) {
	i := slices.IndexFunc(table, func(r Row) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	return &table[i], true
}

// Catches says whether the row stops a call made with args. id16 is set for
// the form with 16-bit ids, whose arguments have not been widened.
func (r *Row) Catches(args [6]uint64, id16 bool) bool {
	if len(r.When) == 0 {
		return true
	}
	for _, all := range r.When {
		holds := true
		for _, t := range r.tests(all, id16) {
			holds = holds && (uint32(args[t.Arg])&t.Mask == t.Val) != t.Not
		}
		if holds {
			return true
		}
	}
	return false
}

// tests are all, narrowed for the form with 16-bit ids.
func (r *Row) tests(all []Test, id16 bool) []Test {
	if !id16 {
		return all
	}
	narrow := slices.Clone(all)
	for i := range narrow {
		if slices.Contains(r.IDs, narrow[i].Arg) {
			narrow[i].Mask &= 0xffff
			narrow[i].Val &= 0xffff
		}
	}
	return narrow
}

// entry is a row at one of its numbers.
type entry struct {
	row  *Row
	id16 bool
}

// byNumber finds the rows of each arch.
var byNumber = func() (m [numArch]map[int32]entry) {
	for a := range numArch {
		m[a] = map[int32]entry{}
		for i := range table {
			if nr := table[i].NR[a]; nr >= 0 {
				m[a][int32(nr)] = entry{&table[i], false}
			}
			if nr := table[i].NR16[a]; nr >= 0 {
				m[a][int32(nr)] = entry{&table[i], true}
			}
		}
	}
	return m
}()

// widen turns 16-bit ids into what the newer form of the call would carry.
func (e entry) widen(args *[6]uint64) {
	if !e.id16 {
		return
	}
	for _, i := range e.row.IDs {
		args[i] &= 0xffff
		if args[i] == 0xffff {
			args[i] = 0xffffffff
		}
	}
}

// checkFeatures refuses names that no row has.
func checkFeatures(features []string) error {
	for _, f := range features {
		if !slices.ContainsFunc(table, func(r Row) bool { return r.Feature == f }) {
			return fmt.Errorf("no trapped call belongs to feature %q: expected %q, %q or %q", f, FeatureMount, FeatureIDs, FeaturePorts)
		}
	}
	return nil
}
