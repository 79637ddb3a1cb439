package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// stateFile remembers, beside the data it belongs to, what the next start
// should use again.
const stateFile = "engine.json"

type engineState struct {
	Passwords  Passwords `json:"passwords"`
	NativePort int       `json:"native_port"`
	HTTPPort   int       `json:"http_port"`
}

// loadState reads the state of a data folder and fills in what is missing.
func loadState(dataDir string) (engineState, error) {
	var state engineState
	raw, err := os.ReadFile(filepath.Join(dataDir, stateFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return state, fmt.Errorf("read the engine's state: %w", err)
	default:
		if err := json.Unmarshal(raw, &state); err != nil {
			return state, fmt.Errorf("read the engine's state %s: %w", filepath.Join(dataDir, stateFile), err)
		}
	}
	for _, password := range []*string{&state.Passwords.Tollway, &state.Passwords.Reader} {
		if *password == "" {
			*password = randomPassword()
		}
	}
	return state, nil
}

func (s engineState) save(dataDir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeSecret(filepath.Join(dataDir, stateFile), append(raw, '\n'))
}

func randomPassword() string {
	raw := make([]byte, 24)
	rand.Read(raw) // crypto/rand.Read ends the process rather than fail
	return base64.RawURLEncoding.EncodeToString(raw)
}

// writeSecret replaces a file that only its owner may read, all or nothing.
func writeSecret(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// writeConfig writes the two files the engine reads at its start and returns
// the path of the first.
func writeConfig(cfg EngineConfig, passwords Passwords) (string, error) {
	users := filepath.Join(cfg.DataDir, "users.xml")
	if err := writeSecret(users, usersXML(cfg, passwords)); err != nil {
		return "", fmt.Errorf("write the engine's users: %w", err)
	}
	config := filepath.Join(cfg.DataDir, "config.xml")
	if err := writeSecret(config, configXML(cfg, users)); err != nil {
		return "", fmt.Errorf("write the engine's configuration: %w", err)
	}
	return config, nil
}

// usersXML has three accounts. default has no password because the boot query
// runs as it, so it is left nothing but what that query needs. That query also
// holds its only session as long as the engine runs, so nobody else can have
// one: without this, any process of the machine could stop the listeners.
func usersXML(cfg EngineConfig, passwords Passwords) []byte {
	var b bytes.Buffer
	b.WriteString(`<clickhouse>
  <profiles>
    <default/>
    <readonly><readonly>2</readonly></readonly>
    <boot>
      <max_sessions_for_user>1</max_sessions_for_user>
      <constraints><max_sessions_for_user><const/></max_sessions_for_user></constraints>
    </boot>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/>
      <networks><ip>::1</ip></networks>
      <profile>boot</profile><quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
        <query>GRANT INSERT ON _table_function.*</query>
      </grants>
    </default>
    <tollway>
`)
	fmt.Fprintf(&b, "      <password>%s</password>\n", escape(passwords.Tollway))
	b.WriteString(`      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile><quota>default</quota>
      <access_management>1</access_management>
    </tollway>
    <reader>
`)
	fmt.Fprintf(&b, "      <password>%s</password>\n", escape(passwords.Reader))
	b.WriteString(`      <networks><ip>127.0.0.1</ip></networks>
      <profile>readonly</profile><quota>default</quota>
      <grants>
`)
	for _, database := range cfg.ReadableDatabases {
		fmt.Fprintf(&b, "        <query>GRANT SELECT ON %s.*</query>\n", database)
	}
	b.WriteString(`      </grants>
    </reader>
  </users>
</clickhouse>
`)
	return b.Bytes()
}

func configXML(cfg EngineConfig, users string) []byte {
	var b bytes.Buffer
	setting := func(name string, value any) { fmt.Fprintf(&b, "  <%s>%v</%s>\n", name, value, name) }

	b.WriteString("<clickhouse>\n")
	setting("users_config", escape(users))
	setting("max_server_memory_usage", cfg.MemoryLimitBytes)
	// Caches are for machines that do nothing else.
	setting("mark_cache_size", min(cfg.MemoryLimitBytes/16, 256<<20))
	setting("index_mark_cache_size", 32<<20)
	setting("uncompressed_cache_size", 0)
	setting("mmap_cache_size", 256)
	setting("background_pool_size", cfg.BackgroundThreads)
	setting("background_schedule_pool_size", 8)
	setting("background_move_pool_size", 1)
	setting("background_fetches_pool_size", 1)
	setting("background_common_pool_size", 2)
	b.WriteString("  <merge_tree>\n")
	// The defaults of these are for a pool of 32 and refuse to start on less.
	for _, name := range []string{"lower_max_size_of_merge", "execute_mutation", "execute_optimize_entire_partition"} {
		setting("number_of_free_entries_in_pool_to_"+name, max(1, cfg.BackgroundThreads/2))
	}
	b.WriteString("  </merge_tree>\n")
	writeClusters(&b, cfg.Clusters)
	b.WriteString("</clickhouse>\n")
	return b.Bytes()
}

func writeClusters(b *bytes.Buffer, clusters map[string][]Shard) {
	if len(clusters) == 0 {
		return
	}
	names := make([]string, 0, len(clusters))
	for name := range clusters {
		names = append(names, name)
	}
	sort.Strings(names)
	b.WriteString("  <remote_servers>\n")
	for _, name := range names {
		fmt.Fprintf(b, "    <%s>\n", name)
		for _, shard := range clusters[name] {
			b.WriteString("      <shard>\n")
			for _, node := range shard {
				fmt.Fprintf(b, "        <replica><host>%s</host><port>%d</port><user>%s</user><password>%s</password></replica>\n",
					escape(node.Host), node.Port, escape(node.Username), escape(node.Password))
			}
			b.WriteString("      </shard>\n")
		}
		fmt.Fprintf(b, "    </%s>\n", name)
	}
	b.WriteString("  </remote_servers>\n")
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a strings.Builder takes every write
	return b.String()
}
