package fuse

import (
	"os"
	"testing"
	"unsafe"

	"github.com/lxbridge/lx/core/fuse/fusetest"
)

// offline is a reader of fs whose answers go nowhere.
func offline(t testing.TB, fs FileSystem) *reader {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	s, err := New(fs, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.fd = int(null.Fd())
	s.neg.Store(&Negotiated{Minor: protoMinor, Flags: initSetxattrExt})
	rd := &reader{srv: s}
	rd.req.Store(&request{srv: s, rd: rd})
	s.readers[rd] = struct{}{}
	return rd
}

func (rd *reader) feed(msg []byte) {
	if h := at[inHeader](msg); h != nil {
		rd.serve(h, msg, rd.srv.now())
	}
}

// body is the memory of the structures, then of the strings.
func body(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(b, p...)
		default:
			panic("body: neither bytes nor string")
		}
	}
	return b
}

var opBodies = map[uint32][]byte{
	opLookup:          body("name\x00"),
	opForget:          body(bytesOf(&forgetIn{3})),
	opBatchForget:     body(bytesOf(&batchForgetIn{Count: 2}), bytesOf(&forgetOne{2, 1}), bytesOf(&forgetOne{3, 1})),
	opGetattr:         body(bytesOf(&getattrIn{})),
	opSetattr:         body(bytesOf(&setattrIn{Valid: FATTR_SIZE})),
	opReadlink:        nil,
	opSymlink:         body("name\x00target\x00"),
	opMknod:           body(bytesOf(&mknodIn{}), "name\x00"),
	opMkdir:           body(bytesOf(&mkdirIn{}), "name\x00"),
	opUnlink:          body("name\x00"),
	opRmdir:           body("name\x00"),
	opRename:          body(bytesOf(&renameIn{1}), "old\x00new\x00"),
	opRename2:         body(bytesOf(&rename2In{NewDir: 1}), "old\x00new\x00"),
	opLink:            body(bytesOf(&linkIn{2}), "name\x00"),
	opOpen:            body(bytesOf(&openIn{})),
	opCreate:          body(bytesOf(&createIn{}), "name\x00"),
	opRead:            body(bytesOf(&readIn{Size: 4096})),
	opWrite:           body(bytesOf(&readIn{Size: 4}), "data"),
	opStatfs:          nil,
	opRelease:         body(bytesOf(&releaseIn{})),
	opFsync:           body(bytesOf(&fsyncIn{})),
	opSetxattr:        body(bytesOf(&setxattrExtIn{setxattrIn: setxattrIn{Size: 5}}), "user.a\x00value"),
	opGetxattr:        body(bytesOf(&getxattrIn{Size: 100}), "user.a\x00"),
	opListxattr:       body(bytesOf(&getxattrIn{Size: 100})),
	opRemovexattr:     body("user.a\x00"),
	opFlush:           body(bytesOf(&flushIn{})),
	opOpendir:         body(bytesOf(&openIn{})),
	opReaddir:         body(bytesOf(&readIn{Size: 4096})),
	opReaddirplus:     body(bytesOf(&readIn{Size: 4096})),
	opReleasedir:      body(bytesOf(&releaseIn{})),
	opFsyncdir:        body(bytesOf(&fsyncIn{})),
	opGetlk:           body(bytesOf(&lkIn{})),
	opSetlk:           body(bytesOf(&lkIn{})),
	opSetlkw:          body(bytesOf(&lkIn{})),
	opAccess:          body(bytesOf(&accessIn{})),
	opInterrupt:       body(bytesOf(&interruptIn{4})),
	opIoctl:           body(bytesOf(&ioctlIn{InSize: 4, OutSize: 4}), "data"),
	opPoll:            body(bytesOf(&pollIn{KH: 1, Flags: pollNotify})),
	opFallocate:       body(bytesOf(&fallocateIn{})),
	opLseek:           body(bytesOf(&lseekIn{})),
	opCopyFileRange:   body(bytesOf(&copyFileRangeIn{Len: 10})),
	opCopyFileRange64: body(bytesOf(&copyFileRangeIn{Len: 10})),
	opStatx:           make([]byte, 24),
	opBmap:            make([]byte, 16),
	opDestroy:         nil,
}

// TestStructureSizes compares with the sizes in include/uapi/linux/fuse.h.
func TestStructureSizes(t *testing.T) {
	for name, s := range map[string]struct{ got, want uintptr }{
		"fuse_in_header":          {unsafe.Sizeof(inHeader{}), 40},
		"fuse_out_header":         {unsafe.Sizeof(outHeader{}), 16},
		"fuse_attr":               {unsafe.Sizeof(wireAttr{}), 88},
		"fuse_entry_out":          {unsafe.Sizeof(entryOut{}), 128},
		"fuse_attr_out":           {unsafe.Sizeof(attrOut{}), 104},
		"fuse_init_in":            {unsafe.Sizeof(initIn{}), 64},
		"fuse_init_out":           {unsafe.Sizeof(initOut{}), 64},
		"fuse_setattr_in":         {unsafe.Sizeof(setattrIn{}), 88},
		"fuse_mknod_in":           {unsafe.Sizeof(mknodIn{}), 16},
		"fuse_rename2_in":         {unsafe.Sizeof(rename2In{}), 16},
		"fuse_create_in":          {unsafe.Sizeof(createIn{}), 16},
		"fuse_open_out":           {unsafe.Sizeof(openOut{}), 16},
		"entry_out and open_out":  {unsafe.Sizeof(createOut{}), 144},
		"fuse_release_in":         {unsafe.Sizeof(releaseIn{}), 24},
		"fuse_flush_in":           {unsafe.Sizeof(flushIn{}), 24},
		"fuse_read_in":            {unsafe.Sizeof(readIn{}), 40},
		"fuse_kstatfs":            {unsafe.Sizeof(statfsOut{}), 80},
		"fuse_fsync_in":           {unsafe.Sizeof(fsyncIn{}), 16},
		"fuse_setxattr_in":        {unsafe.Sizeof(setxattrExtIn{}), 16},
		"fuse_lk_in":              {unsafe.Sizeof(lkIn{}), 48},
		"fuse_ioctl_in":           {unsafe.Sizeof(ioctlIn{}), 32},
		"fuse_ioctl_out":          {unsafe.Sizeof(ioctlOut{}), 16},
		"fuse_poll_in":            {unsafe.Sizeof(pollIn{}), 24},
		"fuse_fallocate_in":       {unsafe.Sizeof(fallocateIn{}), 32},
		"fuse_lseek_in":           {unsafe.Sizeof(lseekIn{}), 24},
		"fuse_copy_file_range_in": {unsafe.Sizeof(copyFileRangeIn{}), 56},
		"fuse_dirent":             {unsafe.Sizeof(dirent{}), direntSize},
		"fuse_direntplus":         {unsafe.Sizeof(direntPlus{}), direntPlusSize},
	} {
		if s.got != s.want {
			t.Errorf("%s has %d bytes; want %d", name, s.got, s.want)
		}
	}
}

// TestHotPathsDoNotAllocate guards what an operation costs.
func TestHotPathsDoNotAllocate(t *testing.T) {
	rd := offline(t, &blank{fail: t.Errorf})
	for _, op := range []uint32{opLookup, opGetattr, opRead, opWrite, opRelease} {
		msg := fusetest.Message(op, 2, 1, opBodies[op])
		if n := testing.AllocsPerRun(100, func() { rd.feed(msg) }); n >= 1 {
			t.Errorf("opcode %d: %v allocations", op, n)
		}
	}
}

// FuzzRequest feeds one message, then one that is well, to a file system that
// checks what it is asked.
func FuzzRequest(f *testing.F) {
	for op, b := range opBodies {
		f.Add(fusetest.Message(op, 2, 1, b))
		f.Add(fusetest.Message(op, 2, 1, nil))
	}
	f.Add(fusetest.Message(1<<31, 2, 1, nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		rd := offline(t, &blank{fail: t.Errorf})
		rd.feed(msg)
		if len(msg) >= inHeaderSize { // the same with a length that holds
			h := at[inHeader](msg)
			h.Len = uint32(len(msg))
			rd.feed(msg)
		}
		before := rd.srv.Stats().Requests
		rd.feed(fusetest.Message(opGetattr, 6, 1, opBodies[opGetattr]))
		if rd.srv.Stats().Requests != before+1 {
			t.Error("a good request after it was not answered")
		}
	})
}

// FuzzInit feeds INIT to a starting server.
func FuzzInit(f *testing.F) {
	f.Add(body(bytesOf(&initIn{Major: 7, Minor: 45})))
	f.Add(body(bytesOf(&initIn{Major: 7, Minor: 45, Flags: 1<<32 - 1}))[:16])
	f.Add([]byte{7})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 || (len(b) >= 4 && at[initIn](append(b, make([]byte, 64)...)).Major > protoMajor) {
			return // asks for another INIT, which does not come
		}
		k, fd, err := fusetest.New()
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(&blank{fail: t.Errorf}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(t.Context(), fd)
		if err := k.Send(fusetest.Message(opInit, 2, 0, b)); err != nil {
			t.Fatal(err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		s.Wait()
	})
}
