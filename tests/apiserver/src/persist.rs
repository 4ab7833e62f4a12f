//! The store on disk: one redb file, one transaction per write. What was acknowledged survives `kill -9`; with
//! `sync` also a power cut.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use anyhow::Context;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde_json::Value;

use crate::object::{Key, Object};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The open database.
#[derive(Debug)]
pub(crate) struct Disk {
    database: Database,
}

impl Disk {
    /// Opens or creates the file; another process that has it open makes this fail.
    pub(crate) fn open(path: &Path, sync: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open the store {shown}"))?;
        file.try_lock().map_err(|e| {
            anyhow::anyhow!("lock the store {shown}: {e}; end the other server that uses this directory")
        })?;
        let backend = Backend { inner: FileBackend::new(file.try_clone()?)?, _locked: file, sync };
        let database = Database::builder()
            .create_with_backend(backend)
            .with_context(|| format!("read the store {shown}"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        Ok(Self { database })
    }

    /// The last revision that was written, 0 for a new store.
    pub(crate) fn revision(&self) -> anyhow::Result<u64> {
        let Some(bytes) = self.meta("revision")? else { return Ok(0) };
        let array = bytes.as_slice().try_into().context("the store's revision has not 8 bytes")?;
        Ok(u64::from_le_bytes(array))
    }

    /// A value kept beside the objects, such as a certificate.
    pub(crate) fn meta(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let table = self.database.begin_read()?.open_table(META)?;
        Ok(table.get(name)?.map(|v| v.value().to_vec()))
    }

    /// Keeps a value beside the objects.
    pub(crate) fn set_meta(&self, name: &str, value: &[u8]) -> anyhow::Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert(name, value)?;
        Ok(transaction.commit()?)
    }

    /// Calls `each` with every collection and object.
    pub(crate) fn load(&self, mut each: impl FnMut(&str, Value)) -> anyhow::Result<()> {
        let table = self.database.begin_read()?.open_table(OBJECTS)?;
        for entry in table.iter()? {
            let (key, bytes) = entry?;
            let collection = key.value().split('\0').next().unwrap_or("");
            let value = serde_json::from_slice(bytes.value())
                .with_context(|| format!("read {:?} from the store", key.value()))?;
            each(collection, value);
        }
        Ok(())
    }

    pub(crate) fn put(&self, collection: &str, object: &Object) -> anyhow::Result<()> {
        let mut bytes = Vec::with_capacity(object.tail().len() + 1);
        bytes.push(b'{');
        bytes.extend_from_slice(object.tail());
        let transaction = self.database.begin_write()?;
        transaction.open_table(OBJECTS)?.insert(path(collection, &object.key).as_str(), bytes.as_slice())?;
        transaction.open_table(META)?.insert("revision", object.revision.to_le_bytes().as_slice())?;
        Ok(transaction.commit()?)
    }

    pub(crate) fn remove(&self, collection: &str, key: &Key, revision: u64) -> anyhow::Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(OBJECTS)?.remove(path(collection, key).as_str())?;
        transaction.open_table(META)?.insert("revision", revision.to_le_bytes().as_slice())?;
        Ok(transaction.commit()?)
    }
}

fn path(collection: &str, key: &Key) -> String {
    format!("{collection}\0{}\0{}", key.namespace, key.name)
}

/// A file whose writes reach the page cache before a commit returns, and the disk only if `sync` is set.
#[derive(Debug)]
struct Backend {
    inner: FileBackend,
    _locked: File,
    sync: bool,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.sync { self.inner.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
