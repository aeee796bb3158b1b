// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.ig;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import bd.gov.dghs.fhir.hapi.SettingException;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.zip.GZIPOutputStream;
import org.apache.commons.compress.archivers.tar.TarArchiveEntry;
import org.apache.commons.compress.archivers.tar.TarArchiveOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.core.io.DefaultResourceLoader;
import org.springframework.mock.env.MockEnvironment;

class IgPackageTest {

    private static final String MANIFEST =
            """
            {"name": "bd.fhir.core", "version": "0.2.1", "canonical": "https://example.org/core",
             "fhirVersions": ["4.0.1"]}
            """;
    private static final String GUIDE =
            """
            {"id": "core", "text": {"div": "ImplementationGuide"}, "resourceType": "ImplementationGuide",
             "url": "https://example.org/core/ImplementationGuide/bd.fhir.core", "version": "0.2.1"}
            """;

    private final Map<String, String> files = new TreeMap<>(Map.of(
            "package/package.json", MANIFEST,
            "package/.index.json", "{not json",
            "package/ImplementationGuide-core.json", GUIDE,
            "package/StructureDefinition-p.json", "{\"resourceType\": \"StructureDefinition\"}",
            "package/example/ImplementationGuide-x.json", GUIDE,
            "other/package.json", "{}"));

    @Test
    void readsWhatThePackageSaysAboutItself() throws IOException {
        IgPackage guide = read();

        assertEquals("bd.fhir.core", guide.name());
        assertEquals("0.2.1", guide.version());
        assertEquals("https://example.org/core", guide.canonical());
        assertEquals(List.of("4.0.1"), guide.fhirVersions());
        assertEquals(
                "https://example.org/core/ImplementationGuide/bd.fhir.core|0.2.1", guide.guideCanonical());
    }

    @Test
    void findsTheGuideUnderAnyFileName() throws IOException {
        files.put("package/resource-17.json", files.remove("package/ImplementationGuide-core.json"));
        assertEquals("0.2.1", read().version());
    }

    @Test
    void takesTheVersionOfThePackageForAGuideWithoutOne() throws IOException {
        files.put("package/ImplementationGuide-core.json", GUIDE.replace(", \"version\": \"0.2.1\"", ""));
        assertTrue(read().guideCanonical().endsWith("|0.2.1"));
    }

    @Test
    void refusesWhatIsNoArchive() {
        assertRefused("not a readable .tgz", "plain text".getBytes(StandardCharsets.UTF_8));
        assertRefused("not a readable .tgz", new byte[0]);
    }

    @Test
    void refusesACutArchive() throws IOException {
        byte[] whole = tgz(files);
        assertRefused("not a readable .tgz", Arrays.copyOf(whole, whole.length / 2));
    }

    @Test
    void refusesAnArchiveThatIsNoPackage() throws IOException {
        files.remove("package/package.json");
        assertRefused("no package/package.json");
    }

    @Test
    void refusesAManifestThatIsNotJson() throws IOException {
        files.put("package/package.json", "{\"name\": ");
        assertRefused("not valid JSON");
    }

    @Test
    void refusesAManifestThatLacksAName() throws IOException {
        files.put("package/package.json", MANIFEST.replace("\"name\"", "\"title\""));
        assertRefused("has no name");
    }

    @Test
    void refusesAnotherFhirVersion() throws IOException {
        files.put("package/package.json", MANIFEST.replace("4.0.1", "5.0.0"));
        assertRefused("this server is R4");
    }

    @Test
    void refusesNoGuideAndTwoGuides() throws IOException {
        files.put("package/second.json", GUIDE);
        assertRefused("holds 2 ImplementationGuide");
        files.remove("package/second.json");
        files.remove("package/ImplementationGuide-core.json");
        assertRefused("holds 0 ImplementationGuide");
    }

    @Test
    void refusesAGuideWithoutUrl() throws IOException {
        files.put("package/ImplementationGuide-core.json", GUIDE.replace("\"url\"", "\"uri\""));
        assertRefused("has no url");
    }

    @Test
    void refusesAPackageThatContradictsItself() throws IOException {
        files.put("package/ImplementationGuide-core.json", GUIDE.replace("0.2.1", "0.3.0"));
        assertRefused("contradicts itself");
    }

    @Test
    void settingsWithoutAPackageHaveNoGuide() {
        IgSettings settings = settings(new MockEnvironment().withProperty("HAPI_IG_PACKAGE_CLASSPATH", ""));
        assertEquals(Optional.empty(), settings.guide());
        assertEquals(Optional.empty(), settings.version());
    }

    @Test
    void settingsFindAPackageByPathAndByUrl(@TempDir Path folder) throws IOException {
        Path file = Files.write(folder.resolve("core.tgz"), tgz(files));
        for (String location : List.of(file.toString(), file.toUri().toString())) {
            IgSettings settings = settings(new MockEnvironment()
                    .withProperty("HAPI_IG_PACKAGE_CLASSPATH", location)
                    .withProperty("HAPI_IG_VERSION", "0.3.0"));
            assertEquals("0.2.1", settings.guide().orElseThrow().version());
            assertEquals(Optional.of("0.3.0"), settings.version(), "what is announced is what was asked for");
        }
    }

    @Test
    void settingsRefuseAMissingPackageByName() {
        for (String location : List.of("classpath:packages/none.tgz", "/nowhere/none.tgz")) {
            MockEnvironment environment =
                    new MockEnvironment().withProperty("HAPI_IG_PACKAGE_CLASSPATH", location);
            SettingException refusal = assertThrows(SettingException.class, () -> settings(environment));
            assertTrue(refusal.getMessage().contains(location), refusal.getMessage());
        }
    }

    private static IgSettings settings(MockEnvironment environment) {
        return IgSettings.of(environment, new DefaultResourceLoader());
    }

    private IgPackage read() throws IOException {
        return IgPackage.read(new ByteArrayInputStream(tgz(files)), "test.tgz");
    }

    private void assertRefused(String because) throws IOException {
        assertRefused(because, tgz(files));
    }

    private static void assertRefused(String because, byte[] content) {
        SettingException refusal = assertThrows(
                SettingException.class, () -> IgPackage.read(new ByteArrayInputStream(content), "test.tgz"));
        assertTrue(refusal.getMessage().contains(because), refusal.getMessage());
        assertTrue(refusal.getMessage().contains("test.tgz"), refusal.getMessage());
    }

    private static byte[] tgz(Map<String, String> files) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (TarArchiveOutputStream tar = new TarArchiveOutputStream(new GZIPOutputStream(bytes))) {
            for (Map.Entry<String, String> file : files.entrySet()) {
                byte[] content = file.getValue().getBytes(StandardCharsets.UTF_8);
                TarArchiveEntry entry = new TarArchiveEntry(file.getKey());
                entry.setSize(content.length);
                tar.putArchiveEntry(entry);
                tar.write(content);
                tar.closeArchiveEntry();
            }
        }
        return bytes.toByteArray();
    }
}
