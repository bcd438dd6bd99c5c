package seccomp

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Arch is the ABI that a call was made by, which may differ from the kernel's own.
type Arch int

const (
	AMD64 Arch = iota
	I386
	ARM64
	ARM // EABI, 32 bit
	numArch
)

var archNames = [numArch]string{"amd64", "i386", "arm64", "arm"}

// audits are the AUDIT_ARCH_ values of linux/audit.h.
var audits = [numArch]uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM}

func (a Arch) String() string {
	if a < 0 || a >= numArch {
		return fmt.Sprintf("arch %d", int(a))
	}
	return archNames[a]
}

// Audit is the arch as struct seccomp_data has it.
func (a Arch) Audit() uint32 { return audits[a] }

// archOf is the arch of struct seccomp_data.
func archOf(audit uint32) (Arch, bool) {
	for a, v := range audits {
		if v == audit {
			return Arch(a), true
		}
	}
	return 0, false
}

// compat is the 32-bit ABI that a kernel of arch a also runs.
func (a Arch) compat() (Arch, bool) {
	switch a {
	case AMD64:
		return I386, true
	case ARM64:
		return ARM, true
	}
	return 0, false
}

// Native is the arch of the running kernel, as far as lx knows it.
func Native() (Arch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return AMD64, nil
	case "arm64":
		return ARM64, nil
	}
	return 0, fmt.Errorf("no table of system calls for %s: expected amd64 or arm64", runtime.GOARCH)
}
