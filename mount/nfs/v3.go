package nfs

import (
	"context"
	"syscall"

	"github.com/lxbridge/lx/mount/volume"
)

func (c *Config) dial3(context.Context) (volume.Volume, error) {
	return nil, &volume.Error{Op: "speak version 3", Errno: syscall.EPROTONOSUPPORT}
}
