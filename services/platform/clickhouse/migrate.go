package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// migration is one file: one statement that may be run again.
type migration struct {
	file     string // base name, what an error names
	version  uint32
	name     string
	checksum string
	text     string
}

// A file NNNN_name.sql runs everywhere, NNNN_name.cluster.sql only where a
// cluster is configured and NNNN_name.single.sql only where none is.
var migrationPattern = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)(?:\.(cluster|single))?\.sql$`)

// Migrate brings every node to the newest schema and returns how many
// statements it ran in all. The nodes are those of the configured cluster,
// from the server's system.clusters, or the addresses when there is none.
// Statements run node by node in the order of their files, each is recorded on
// the node when it is done, and one that was done is never run again; so after
// a crash the next run goes on where this one ended.
//
// In a file ${database}, ${all_shards} (the database of AllShards), ${cluster}
// and the names in vars stand for their values, and ${engine:ReplacingMergeTree(version)} for that engine or its
// replicated form, by configuration.
func Migrate(ctx context.Context, cfg Config, files fs.FS, vars map[string]string) (int, error) {
	if err := cfg.Validate(); err != nil {
		return 0, err
	}
	migrations, err := readMigrations(files, cfg.Cluster != "")
	if err != nil {
		return 0, err
	}
	// Every text is complete before the first one runs.
	statements := make([]string, len(migrations))
	for i, m := range migrations {
		if statements[i], err = expand(m.text, cfg, vars); err != nil {
			return 0, fmt.Errorf("migration %s: %w", m.file, err)
		}
	}
	nodes, err := migrationNodes(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("find the nodes to migrate: %w", err)
	}
	applied := 0
	for _, node := range nodes {
		steps, err := migrateNode(ctx, cfg, node, migrations, statements)
		applied += steps
		if err != nil {
			return applied, fmt.Errorf("migrate %s: %w", node, err)
		}
	}
	return applied, nil
}

func readMigrations(files fs.FS, cluster bool) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []migration
	seen := map[uint32]string{}
	for _, file := range names {
		match := migrationPattern.FindStringSubmatch(path.Base(file))
		if match == nil {
			return nil, fmt.Errorf("migration %s: want a name like 0001_calls.sql", file)
		}
		if match[3] == "cluster" && !cluster || match[3] == "single" && cluster {
			continue
		}
		version, err := strconv.ParseUint(match[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		if other, twice := seen[uint32(version)]; twice {
			return nil, fmt.Errorf("migrations %s and %s have the same number", other, file)
		}
		seen[uint32(version)] = file
		raw, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		text, err := oneStatement(string(raw))
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		sum := sha256.Sum256(raw)
		out = append(out, migration{
			file: path.Base(file), version: uint32(version), name: strings.TrimSuffix(path.Base(file), ".sql")[5:],
			checksum: hex.EncodeToString(sum[:]), text: text,
		})
	}
	return out, nil
}

// oneStatement drops the closing semicolon and refuses a second statement.
func oneStatement(text string) (string, error) {
	end := endOfStatement(text)
	if rest := strings.Trim(text[end:], "; \t\r\n"); rest != "" && endOfStatement(rest) > len(leadingComments(rest)) {
		return "", fmt.Errorf("more than one statement")
	}
	text = strings.TrimSpace(text[:end])
	if strings.TrimSpace(text[len(leadingComments(text)):]) == "" {
		return "", fmt.Errorf("no statement")
	}
	return text, nil
}

// endOfStatement is the position of the first semicolon outside of quotes and
// comments, or the end.
func endOfStatement(text string) int {
	for i := 0; i < len(text); {
		switch skip := skipOpaque(text[i:]); {
		case skip > 0:
			i += skip
		case text[i] == ';':
			return i
		default:
			i++
		}
	}
	return len(text)
}

// skipOpaque is the length of the quoted text or comment that text begins with,
// 0 if it begins with neither.
func skipOpaque(text string) int {
	until := func(from int, end string) int {
		if i := strings.Index(text[from:], end); i >= 0 {
			return from + i + len(end)
		}
		return len(text)
	}
	switch {
	case strings.HasPrefix(text, "--"):
		return until(2, "\n")
	case strings.HasPrefix(text, "/*"):
		return until(2, "*/")
	case text[0] == '\'' || text[0] == '"' || text[0] == '`':
		for i := 1; i < len(text); i++ {
			switch text[i] {
			case '\\':
				i++
			case text[0]:
				return i + 1
			}
		}
		return len(text)
	}
	return 0
}

// leadingComments are the blanks and comments before the first word.
func leadingComments(text string) string {
	i := 0
	for i < len(text) {
		switch {
		case strings.ContainsRune(" \t\r\n", rune(text[i])):
			i++
		case strings.HasPrefix(text[i:], "--"), strings.HasPrefix(text[i:], "/*"):
			i += skipOpaque(text[i:])
		default:
			return text[:i]
		}
	}
	return text
}

var (
	placeholderPattern = regexp.MustCompile(`\$\{([^}]*)\}`)
	createTablePattern = regexp.MustCompile("(?is)\\bCREATE\\s+(?:OR\\s+REPLACE\\s+)?TABLE\\s+(?:IF\\s+NOT\\s+EXISTS\\s+)?(?:`?(?:\\$\\{database\\}|\\w+)`?\\.)?`?(\\w+)`?")
	enginePattern      = regexp.MustCompile(`(?s)^(\w*MergeTree)\s*(?:\((.*)\))?$`)
)

// expand replaces the placeholders; one that is not known is an error.
func expand(text string, cfg Config, vars map[string]string) (string, error) {
	var failure error
	out := placeholderPattern.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		value, err := placeholder(name, text, cfg, vars)
		if err != nil && failure == nil {
			failure = err
		}
		return value
	})
	return out, failure
}

func placeholder(name, text string, cfg Config, vars map[string]string) (string, error) {
	if wanted, isEngine := strings.CutPrefix(name, "engine:"); isEngine {
		return engineClause(strings.TrimSpace(wanted), text, cfg)
	}
	switch name {
	case "database":
		return cfg.Database, nil
	case "cluster", "all_shards":
		if cfg.Cluster == "" {
			return "", fmt.Errorf("${%s} is used and no cluster is configured; name the file ….cluster.sql", name)
		}
		if name == "cluster" {
			return cfg.Cluster, nil
		}
		return cfg.AllShards().Database, nil
	}
	value, known := vars[name]
	if !known {
		return "", fmt.Errorf("unknown placeholder ${%s}", name)
	}
	return value, nil
}

// engineClause gives a replicated table a path of its own in the keeper, made
// of the shard, the database and the table.
func engineClause(wanted, text string, cfg Config) (string, error) {
	match := enginePattern.FindStringSubmatch(wanted)
	if match == nil {
		return "", fmt.Errorf("${engine:%s}: want a MergeTree engine", wanted)
	}
	if cfg.Engine != Replicated {
		return wanted, nil
	}
	table := createTablePattern.FindStringSubmatch(text)
	if table == nil {
		return "", fmt.Errorf("${engine:%s} stands in a statement that does not create a table", wanted)
	}
	clause := fmt.Sprintf("Replicated%s('/clickhouse/tables/{shard}/%s/%s', '{replica}'", match[1], cfg.Database, table[1])
	if arguments := strings.TrimSpace(match[2]); arguments != "" {
		clause += ", " + arguments
	}
	return clause + ")", nil
}

// migrationNodes asks any reachable node for the members of the cluster.
func migrationNodes(ctx context.Context, cfg Config) ([]string, error) {
	if cfg.Cluster == "" {
		return cfg.Addresses, nil
	}
	shards, err := clusterShards(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return slices.Concat(shards...), nil
}

// clusterShards are the native addresses of each shard of the cluster.
func clusterShards(ctx context.Context, cfg Config) ([][]string, error) {
	// The configured database may not exist yet.
	cfg.Database = "default"
	db, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.Query(ctx, `SELECT shard_num, host_name, port FROM system.clusters
		WHERE cluster = {cluster:String} ORDER BY shard_num, replica_num`, map[string]any{"cluster": cfg.Cluster})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var shards [][]string
	for rows.Next() {
		var shard uint32
		var host string
		var port uint16
		if err := rows.Scan(&shard, &host, &port); err != nil {
			return nil, err
		}
		for len(shards) < int(shard) {
			shards = append(shards, nil)
		}
		shards[shard-1] = append(shards[shard-1], net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(shards) == 0 {
		return nil, fmt.Errorf("the server knows no cluster %s", cfg.Cluster)
	}
	return shards, nil
}

func migrateNode(ctx context.Context, cfg Config, node string, migrations []migration, statements []string) (int, error) {
	cfg.Addresses, cfg.HTTPAddresses, cfg.Cluster = []string{node}, nil, ""
	if err := createDatabase(ctx, cfg); err != nil {
		return 0, fmt.Errorf("create the database: %w", err)
	}
	db, err := Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	done, err := appliedMigrations(ctx, db)
	if err != nil {
		return 0, fmt.Errorf("read schema_migrations: %w", err)
	}
	applied := 0
	for i, m := range migrations {
		if checksum, was := done[migrationKey{m.version, m.name}]; was {
			if checksum != m.checksum {
				return applied, fmt.Errorf("migration %s was changed after it had been applied; restore it and add a new file instead", m.file)
			}
			continue
		}
		if err := db.Exec(ctx, statements[i], nil); err != nil {
			return applied, fmt.Errorf("migration %s: %w", m.file, err)
		}
		if err := recordMigration(ctx, db, m); err != nil {
			return applied, fmt.Errorf("record migration %s: %w", m.file, err)
		}
		applied++
	}
	return applied, nil
}

func createDatabase(ctx context.Context, cfg Config) error {
	name := cfg.Database
	cfg.Database = "default"
	db, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+Identifier(name), nil)
}

type migrationKey struct {
	version uint32
	name    string
}

// The table is each node's own, replicated or not: it says what this node has.
const migrationsTable = `CREATE TABLE IF NOT EXISTS schema_migrations (
	version UInt32,
	name String,
	checksum String,
	applied_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY (version, name)`

func appliedMigrations(ctx context.Context, db *DB) (map[migrationKey]string, error) {
	if err := db.Exec(ctx, migrationsTable, nil); err != nil {
		return nil, err
	}
	rows, err := db.Query(ctx, "SELECT version, name, checksum FROM schema_migrations FINAL", nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	done := map[migrationKey]string{}
	for rows.Next() {
		var key migrationKey
		var checksum string
		if err := rows.Scan(&key.version, &key.name, &checksum); err != nil {
			return nil, err
		}
		done[key] = checksum
	}
	return done, rows.Err()
}

func recordMigration(ctx context.Context, db *DB, m migration) error {
	return db.Exec(ctx, `INSERT INTO schema_migrations
		SELECT {version:UInt32}, {name:String}, {checksum:String}, fromUnixTimestamp64Micro({applied_at:Int64}, 'UTC')`,
		map[string]any{"version": m.version, "name": m.name, "checksum": m.checksum, "applied_at": time.Now().UnixMicro()},
		WithSettings(map[string]any{"async_insert": 0}))
}

// OpenShards returns one DB per shard of the configured cluster, in the order
// of their numbers, each with the shard's replicas as its addresses; without a
// cluster it is one DB over the addresses. Rows that must meet their earlier
// copies are inserted through the shard they belong to.
func OpenShards(ctx context.Context, cfg Config) (shards []*DB, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Cluster == "" {
		db, err := Open(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return []*DB{db}, nil
	}
	defer func() {
		if err != nil {
			for _, db := range shards {
				db.Close()
			}
			shards = nil
		}
	}()
	members, err := clusterShards(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for i, addresses := range members {
		own, err := cfg.restricted(addresses)
		if err != nil {
			return shards, fmt.Errorf("shard %d of cluster %s: %w", i+1, cfg.Cluster, err)
		}
		db, err := Open(ctx, own)
		if err != nil {
			return shards, fmt.Errorf("shard %d of cluster %s: %w", i+1, cfg.Cluster, err)
		}
		shards = append(shards, db)
	}
	return shards, nil
}

// restricted is the configuration with only the given addresses and the HTTP
// addresses that pair with them.
func (c Config) restricted(addresses []string) (Config, error) {
	var paired []string
	for _, address := range addresses {
		i := slices.Index(c.Addresses, address)
		if i < 0 {
			return c, fmt.Errorf("its node %s is missing in clickhouse.addresses", address)
		}
		if len(c.HTTPAddresses) > 0 {
			paired = append(paired, c.HTTPAddresses[i])
		}
	}
	c.Addresses, c.HTTPAddresses = addresses, paired
	return c, nil
}
