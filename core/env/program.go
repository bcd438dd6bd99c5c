package env

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// SealedSelf is this program in memory that nobody can change: guests can open
// /proc/1/exe for writing, and must find nothing there to write to. A process
// that was started from such memory shares it.
func SealedSelf() (*os.File, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("cannot open own program: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	// Files that are no memory have no seals (EINVAL).
	if have, err := unix.FcntlInt(self.Fd(), unix.F_GET_SEALS, 0); err == nil && have&seals == seals {
		return self, nil
	}
	defer self.Close()
	fd, err := unix.MemfdCreate("lx", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("lx", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot copy own program to memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "lx")
	if _, err := io.Copy(f, self); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot copy own program to memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal own program: %w", err)
	}
	return f, nil
}
