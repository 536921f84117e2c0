// Package faults damages tinykv's disk and reads what it says: corruption is named by file and
// offset and never served, a torn tail is cut, a full disk stops the server and loses nothing.
package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aistack/e2e/peers/etcd/peers"
)

func put(server *peers.Server, key, value string) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	response, err := server.Client.Put(ctx, key, value)
	if err != nil {
		return 0, err
	}
	return response.Header.Revision, nil
}

func fill(t *testing.T, server *peers.Server, count int) (last int64) {
	for i := range count {
		revision, err := put(server, fmt.Sprintf("k%d", i), strings.Repeat("v", 200))
		if err != nil {
			t.Fatal(err)
		}
		last = revision
	}
	return last
}

// lastSegment reads the log's newest file; answers it and the end of what was written.
func lastSegment(t *testing.T, dir string) (path string, content []byte, end int) {
	paths, err := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no log in %s: %v", dir, err)
	}
	path = paths[len(paths)-1]
	content, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content, len(bytes.TrimRight(content, "\x00"))
}

func TestAFlippedBitIsNamedAndNothingIsServed(t *testing.T) {
	server := peers.Tinykv(t)
	fill(t, server, 50)
	server.Kill(t)
	path, content, end := lastSegment(t, server.DataDir)
	for _, at := range []int{100, end / 2, end - 300} {
		damaged := bytes.Clone(content)
		damaged[at] ^= 4
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		said := server.Refuses(t)
		if !strings.Contains(said, path) || !strings.Contains(said, "at byte") || !strings.Contains(said, "corrupt") {
			t.Fatalf("a flip at %d gave:\n%s", at, said)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, damaged) {
			t.Fatal("a refused log was written")
		}
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
}

// Every file that a member reads back: what a flipped bit in it does, place by place.
func TestAFlippedBitInAnyFileIsRefusedByTheFilesName(t *testing.T) {
	server := peers.Tinykv(t, "--set", "raft.snapshot_entries=300", "--set", "raft.segment_bytes=6291456")
	last := fill(t, server, 1000)
	if _, err := server.Client.Grant(context.Background(), 600); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	check := func() string { return peers.Says(t, "check", "--data-dir", server.DataDir) }
	sound := fmt.Sprintf("revision %d", last)
	if said := check(); !strings.Contains(said, sound) {
		t.Fatalf("before any damage:\n%s", said)
	}
	kinds := map[string]int{}
	err := filepath.WalkDir(server.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		kind := fileKind(path)
		content, err := os.ReadFile(path)
		if err != nil || kind == "" || len(content) == 0 {
			return err
		}
		end := len(bytes.TrimRight(content, "\x00"))
		parts := 12
		if kind == "table" {
			parts = 4 // There are many of them.
		}
		for _, at := range places(end, parts) {
			damaged := bytes.Clone(content)
			damaged[at] ^= 4
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				return err
			}
			said := check()
			switch named := strings.Contains(said, filepath.Base(path)); {
			case named:
			// RocksDB reads past a damaged filter, which only saves looks, and tells of damage in what a table says of itself by the
			// name of its folder.
			case kind == "table" && (strings.Contains(said, sound) || strings.Contains(said, "Corruption: ")):
				kinds["table's own records"]++
			default:
				t.Errorf("%s: a flip at %d of %d gave:\n%s", path, at, end, said)
			}
			kinds[kind]++
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("flips by kind of file: %v", kinds)
	for _, kind := range []string{"log", "table", "manifest", "current", "identity", "position"} {
		if kinds[kind] == 0 {
			t.Errorf("there was no file of the kind %s", kind)
		}
	}
	if said := check(); !strings.Contains(said, sound) {
		t.Fatalf("after it was mended:\n%s", said)
	}
}

// fileKind is what a file of a data directory is for, if anything is read from it.
func fileKind(path string) string {
	name := filepath.Base(path)
	switch {
	case name == "identity.json":
		return "identity"
	case name == "position":
		return "position"
	case name == "STATE":
		return "state"
	case name == "CURRENT":
		return "current"
	case strings.HasPrefix(name, "MANIFEST-"):
		return "manifest"
	case strings.HasSuffix(name, ".sst"):
		return "table"
	case strings.HasSuffix(name, ".log") && filepath.Base(filepath.Dir(path)) == "log":
		return "log"
	}
	// RocksDB's diary, its options, its lock.
	return ""
}

// places are some, and both ends.
func places(end, parts int) []int {
	at := []int{0, end - 1}
	for i := 1; i < parts; i++ {
		at = append(at, i*end/parts)
	}
	return at
}

func TestATornTailIsCutAndTheRestServed(t *testing.T) {
	server := peers.Tinykv(t)
	last := fill(t, server, 50)
	server.Kill(t)
	path, content, end := lastSegment(t, server.DataDir)
	for i := end - 150; i < end; i++ {
		content[i] = 0
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	response, err := server.Client.Get(context.Background(), "k48")
	if err != nil || len(response.Kvs) != 1 || response.Header.Revision != last-1 {
		t.Fatalf("%v %v, expected revision %d", response, err, last-1)
	}
	if revision, err := put(server, "next", "v"); err != nil || revision != last {
		t.Fatalf("revision %d, %v", revision, err)
	}
}

func TestAFullDiskStopsTheServerAndLosesNothing(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	server := peers.TinykvIn(t, filepath.Join(disk, "data"), "--set", "raft.segment_bytes=8388608")
	acknowledged := map[string]int64{}
	value := strings.Repeat("v", 200_000)
	for i := 0; ; i++ {
		key := fmt.Sprintf("k%d", i)
		revision, err := put(server, key, value)
		if err != nil {
			t.Logf("after %d writes: %v", i, err)
			break
		}
		acknowledged[key] = revision
		if i > 2000 {
			t.Fatal("the disk never filled up")
		}
	}
	said := server.Exits(t)
	if !strings.Contains(said, "No space left on device") {
		t.Fatalf("it said:\n%s", said)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	for key, revision := range acknowledged {
		response, err := server.Client.Get(context.Background(), key)
		if err != nil || len(response.Kvs) != 1 || response.Kvs[0].ModRevision != revision || len(response.Kvs[0].Value) != len(value) {
			t.Fatalf("%s was acknowledged at revision %d: %v", key, revision, err)
		}
	}
	if _, err := put(server, "after", "v"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d acknowledged writes, all there", len(acknowledged))
}

func TestASecondProcessAndPeersAreRefused(t *testing.T) {
	server := peers.Tinykv(t)
	if said := peers.Says(t, "--data-dir", server.DataDir, "--listen-client-urls", "http://127.0.0.1:0", "--admin-listen", "127.0.0.1:0"); !strings.Contains(said, "in use by another process") {
		t.Fatal(said)
	}
	if said := peers.Says(t, "--set", "peers=[\"http://10.0.0.2:2380\"]", "--data-dir", t.TempDir()); !strings.Contains(said, "not this member") {
		t.Fatal(said)
	}
}

func TestAStopInGoodOrderAndACheck(t *testing.T) {
	server := peers.Tinykv(t)
	last := fill(t, server, 20)
	server.Stop(t)
	said := peers.Says(t, "check", "--data-dir", server.DataDir)
	if said2 := peers.Says(t, "--data-dir", server.DataDir, "check"); !strings.Contains(said+said2, fmt.Sprintf("revision %d", last)) {
		t.Fatal(said, said2)
	}
	server.Start(t)
	response, err := server.Client.Get(context.Background(), "k19")
	if err != nil || response.Header.Revision != last {
		t.Fatalf("%v %v", response, err)
	}
}
