// Package keys makes API keys and the hashes that are kept of them.
//
// In comes the installation's hash key, from a file; out go API keys, once, and
// their keyed hashes. An API key is tk_ and 8 characters, by which people tell
// keys apart, an underscore and 27 characters that hold 160 random bits. What is
// kept is HMAC-SHA-256 of the whole text. Without the hash key nobody can tell
// whether a text is the key behind a hash; if it is lost, all API keys are, and
// nothing else. The file is written as a whole, and synced, before it is used.
package keys

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
)

const (
	// Start begins every API key.
	Start = "tk_"
	// prefixChars, of base 62, tell keys apart; secretChars hold 160 bits.
	prefixChars = 8
	secretChars = 27
	secretBits  = 160
	hashKeySize = 32
)

// HashKey is the key of an installation's hashes.
type HashKey []byte

// Hash is what is kept of an API key.
func (k HashKey) Hash(apiKey string) []byte {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(apiKey))
	return mac.Sum(nil)
}

// Check is a value by which one can see whether two processes have the same
// hash key. Nothing about the key follows from it.
func (k HashKey) Check() string {
	return hex.EncodeToString(k.Hash("tollway hash key check"))
}

// New makes an API key. The prefix is its beginning, which may be shown.
func New() (key, prefix string, err error) {
	name, err := digits(prefixChars, new(big.Int).Exp(big.NewInt(62), big.NewInt(prefixChars), nil))
	if err != nil {
		return "", "", err
	}
	secret, err := digits(secretChars, new(big.Int).Lsh(big.NewInt(1), secretBits))
	if err != nil {
		return "", "", err
	}
	prefix = Start + name
	return prefix + "_" + secret, prefix, nil
}

// digits writes a random number below a limit with so many digits of base 62.
func digits(n int, limit *big.Int) (string, error) {
	number, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return "", fmt.Errorf("make API key: %w", err)
	}
	text := number.Text(62)
	return strings.Repeat("0", n-len(text)) + text, nil
}

// Load reads the hash key from a file, in hexadecimal digits. If there is no
// file it makes one that only its owner can read.
func Load(path string) (HashKey, error) {
	key, err := read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("make the hash key: %w", err)
	}
	return read(path)
}

func read(path string) (HashKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the hash key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < hashKeySize {
		return nil, fmt.Errorf("%s is no hash key: it must hold %d bytes or more as hexadecimal digits", path, hashKeySize)
	}
	return key, nil
}

// create writes a new key beside the file and links it there, which does
// nothing if another process was faster.
func create(path string) error {
	key := make([]byte, hashKeySize)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, ".hash-key-") // readable by its owner only
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(hex.EncodeToString(key) + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
